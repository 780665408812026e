"""Architectures by name: ``timm:NAME``, ``torchvision:NAME``, ``python:package.module:factory``."""

from __future__ import annotations

import difflib
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from badexpert.errors import ModelLoadError
from badexpert.loading.factories import resolve_factory

HOW_TO_NAME = (
    "Name it with timm:NAME, torchvision:NAME or python:package.module:factory, "
    "as in --arch timm:resnet18"
)
_FORBIDDEN_ARGUMENTS = ("pretrained", "checkpoint", "weights", "cache_dir", "url", "features_only")
"""What could make a factory fetch or open other files; the weights come from the suspect alone."""
_CLASS_NAMES = ("num_classes", "n_classes", "num_class", "nb_classes", "classes", "num_labels")
_CHANNEL_NAMES = ("in_chans", "in_channels", "input_channels", "in_ch", "num_channels", "channels")

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture(ABC):
    """A way to build a network from keyword arguments.

    Attributes:
        spec: as the user wrote it.
    """

    spec: str

    @property
    @abstractmethod
    def class_argument(self) -> str | None:
        """The keyword that sets the number of classes."""

    @property
    @abstractmethod
    def channel_argument(self) -> str | None:
        """The keyword that sets the number of input channels."""

    @abstractmethod
    def _create(self, arguments: Arguments) -> nn.Module: ...

    def build(self, arguments: Arguments) -> nn.Module:
        """The network with random weights, on the CPU; global random state is left alone.

        Raises:
            ModelLoadError: it cannot be built with these arguments.
        """
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                built = self._create(arguments)
            except Exception as error:
                # A factory is foreign code and may raise anything.
                raise ModelLoadError(
                    f"{self.spec} cannot be built with {dict(arguments)}: "
                    f"{type(error).__name__}: {str(error)[:300]}. Check the architecture arguments"
                ) from error
        if not isinstance(built, nn.Module):
            raise ModelLoadError(
                f"{self.spec} returned {type(built).__name__}, not a torch.nn.Module"
            )
        return built

    def blueprint(self, arguments: Arguments) -> nn.Module:
        """The network for looking at its shapes only; may lie on the meta device."""
        with torch.device("meta"):
            return self.build(arguments)


@dataclass(frozen=True)
class TimmArchitecture(Architecture):
    """A network from timm's registry."""

    name: str

    @property
    def class_argument(self) -> str | None:
        return "num_classes"

    @property
    def channel_argument(self) -> str | None:
        return "in_chans"

    def _create(self, arguments: Arguments) -> nn.Module:
        return timm.create_model(self.name, pretrained=False, **arguments)


@dataclass(frozen=True)
class TorchvisionArchitecture(Architecture):
    """A classifier from torchvision's registry."""

    name: str

    @property
    def class_argument(self) -> str | None:
        return "num_classes"

    @property
    def channel_argument(self) -> str | None:
        return None

    def _create(self, arguments: Arguments) -> nn.Module:
        builder = torchvision.models.get_model_builder(self.name)
        built: nn.Module = builder(weights=None, **arguments)
        return built


@dataclass(frozen=True)
class FactoryArchitecture(Architecture):
    """A network from a function or class of the user's own."""

    factory: Callable[..., object]

    @property
    def class_argument(self) -> str | None:
        return self._first_of(_CLASS_NAMES)

    @property
    def channel_argument(self) -> str | None:
        return self._first_of(_CHANNEL_NAMES)

    def _first_of(self, names: tuple[str, ...]) -> str | None:
        parameters = inspect.signature(self.factory).parameters
        return next((name for name in names if name in parameters), None)

    def _create(self, arguments: Arguments) -> nn.Module:
        return self.factory(**arguments)  # type: ignore[return-value]

    def blueprint(self, arguments: Arguments) -> nn.Module:
        """Built for real: user code seldom expects the meta device."""
        return self.build(arguments)


def parse_architecture(spec: str, *, model_path: Path | None = None) -> Architecture:
    """Turn a specification into something that builds networks.

    Args:
        model_path: the suspect's file or folder, whence no code is taken.
    Raises:
        ModelLoadError: the name is unknown, or the factory is missing or stands beside the model.
    """
    kind, _, name = spec.partition(":")
    if kind == "timm":
        known = set(timm.list_models())
        # A tag, as in resnet18.a1_in1k, says which weights; the network is the same.
        if name.partition(".")[0] not in known:
            raise _unknown(spec, name, known)
        return TimmArchitecture(spec, name.partition(".")[0])
    if kind == "torchvision":
        known = set(torchvision.models.list_models(module=torchvision.models))
        if name not in known:
            raise _unknown(spec, name, known)
        return TorchvisionArchitecture(spec, name)
    if kind == "python":
        return FactoryArchitecture(spec, resolve_factory(name, model_path=model_path))
    raise ModelLoadError(f"architecture {spec!r} is not understood. {HOW_TO_NAME}")


def checked_arguments(arguments: Arguments) -> dict[str, Any]:
    """Architecture arguments, if none of them could reach for other files.

    Raises:
        ModelLoadError: an argument is about weights, or is no plain value.
    """
    for name, value in arguments.items():
        if any(word in name for word in _FORBIDDEN_ARGUMENTS):
            raise ModelLoadError(
                f"architecture argument {name!r} is refused: weights come from the suspect's own "
                "file only. Remove it"
            )
        if not _is_plain(value):
            raise ModelLoadError(
                f"architecture argument {name!r} must be a number, a text, a truth value or a "
                f"list of these; got {str(value)[:100]}"
            )
    return dict(arguments)


def _is_plain(value: object, depth: int = 0) -> bool:
    if isinstance(value, list | tuple):
        return depth < 3 and len(value) <= 64 and all(_is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _unknown(spec: str, name: str, known: set[str]) -> ModelLoadError:
    close = difflib.get_close_matches(name, known, n=4)
    hint = f"Did you mean {', '.join(close)}?" if close else HOW_TO_NAME
    return ModelLoadError(f"architecture {spec!r} is not known here. {hint}")
