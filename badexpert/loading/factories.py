"""Finding a factory of the user's own, and never importing code that came with the model."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path

from badexpert.errors import ModelLoadError


def resolve_factory(reference: str, *, model_path: Path | None = None) -> Callable[..., object]:
    """The callable behind ``package.module:factory``, imported from the user's path.

    Every package on the way is located before it is imported, so that code which came with the
    model is refused before any of it runs.

    Raises:
        ModelLoadError: malformed, not found, not callable, failing on import, or lying in the
            model's folder.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ModelLoadError(
            f"architecture 'python:{reference}' is not understood; write "
            "python:package.module:factory"
        )
    module = _import_outside(module_name, model_path)
    factory: object = module
    for part in attribute.split("."):
        factory = getattr(factory, part, None)
    if not callable(factory):
        raise ModelLoadError(f"module {module_name!r} has no callable {attribute!r}")
    return factory


def _import_outside(module_name: str, model_path: Path | None) -> object:
    parts = module_name.split(".")
    module: object = None
    search: list[str] | None = None
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        _refuse_beside_model(name, _location(name, search), model_path)
        module = _import(name)
        search = list(getattr(module, "__path__", []))
    return module


def _location(name: str, search: list[str] | None) -> Path | None:
    """The file of a module that is not imported yet, or that is; None for one without a file."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
        return Path(file) if file else None
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(name, search)
    if spec is None:
        raise ModelLoadError(
            f"module {name!r} is not on Python's path. Install it, or set PYTHONPATH to the "
            "folder that holds it, as in PYTHONPATH=src"
        )
    if spec.origin is not None:
        return Path(spec.origin)
    locations = list(spec.submodule_search_locations or [])
    return Path(locations[0]) / "__init__.py" if locations else None


def _refuse_beside_model(name: str, location: Path | None, model_path: Path | None) -> None:
    if location is None or model_path is None:
        return
    code = location.resolve()
    if model_path.is_dir():
        inside = code.is_relative_to(model_path.resolve())
    else:
        inside = code.parent in (model_path.parent.resolve(), model_path.resolve().parent)
    if inside:
        raise ModelLoadError(
            f"module {name!r} lies beside the suspect, at {code}; code that came with a model is "
            "never run. If it is your own, move it, or the model, to another folder"
        )


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except Exception as error:
        # The module is the user's code: importing it may raise anything.
        raise ModelLoadError(
            f"module {name!r} cannot be imported: {type(error).__name__}: {str(error)[:300]}"
        ) from error
