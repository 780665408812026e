"""Models of the package transformers, built from data alone: a configuration and tensors.

Run with transformers 5.17.0 and 5.23.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from badexpert.errors import ModelLoadError, UnsafeModelError
from badexpert.loading.folder import MAX_ARGUMENT
from badexpert.models.codec import import_transformers

MAX_EXCESS = 2
"""A model whose configuration announces more than so many times the numbers that its files hold
would take memory that nothing fills."""

_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""Settings that may name a kernel on the hub, which is code."""

_FLOAT = "__float__"
_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
"""JSON has no such numbers; transformers 5 writes ``{"__float__": "Infinity"}`` in their place."""

_LEVELS = 32
"""Of a configuration within another, far more than any model has."""

_LAYERS = re.compile(r"(n|num)_(\w+_)?layers?|(encoder|decoder)_layers")
"""Keys of how many layers there are, each of which has tensors of its own."""


def build_module(
    document: Mapping[str, Any],
    architecture: str,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> nn.Module:
    """A model with the given tensors; nothing is fetched and nothing but transformers is run.

    Args:
        document: ``config.json``.
        architecture: class that it names.
        dtype: of the weights.
    Raises:
        UnsafeModelError: the configuration asks for code from the model's repository.
        ModelLoadError: transformers is missing or does not know the model, or tensors and
            configuration do not belong together.
    """
    if "auto_map" in document:
        raise UnsafeModelError(
            "config.json asks for code from the model's repository (auto_map), which is never "
            "run. Give a version of the model for an architecture that transformers itself has"
        )
    if "quantization_config" in document:
        raise ModelLoadError(
            "the weights are quantised (quantization_config), and cannot be tuned. Give the "
            "original ones"
        )
    document = _numbered(document)
    _refuse_endless(document, len(tensors))
    with quiet(import_transformers()) as transformers:
        config = _configuration(transformers, document)
        kind = _class_of(transformers, config, architecture)
        _refuse_hollow(kind, config, tensors)
        try:
            module, report = kind.from_pretrained(
                None, config=config, state_dict=dict(tensors), dtype=dtype, output_loading_info=True
            )
        except Exception as error:
            # Its loader raises RuntimeError, ValueError and others for tensors that do not fit.
            raise ModelLoadError(
                f"the tensors do not fit {architecture}: {type(error).__name__}: "
                f"{str(error)[:300]}. Download the model again"
            ) from error
    _refuse_misfits(architecture, report)
    ends = config.get_text_config().eos_token_id
    module.generation_config = transformers.GenerationConfig(
        eos_token_id=ends, pad_token_id=ends[0] if isinstance(ends, list) else ends or 0
    )
    built: nn.Module = module
    return built


def _numbered(value: Any, levels: int = _LEVELS) -> Any:
    """With numbers in place of what stands for them."""
    if not isinstance(value, list | Mapping):
        return value
    if not levels:
        raise ModelLoadError(
            f"config.json is nested too deeply, in more than {_LEVELS} levels. The file is "
            "damaged or hostile"
        )
    if isinstance(value, list):
        return [_numbered(item, levels - 1) for item in value]
    if value.keys() == {_FLOAT} and isinstance(name := value[_FLOAT], str) and name in _FLOATS:
        return _FLOATS[name]
    return {key: _numbered(item, levels - 1) for key, item in value.items()}


def _configuration(transformers: Any, document: Mapping[str, Any]) -> Any:
    kind, known = document.get("model_type"), transformers.CONFIG_MAPPING
    if not isinstance(kind, str) or kind not in known:
        raise ModelLoadError(
            f"transformers {transformers.__version__} does not know the model_type {kind!r}. "
            "Install the version that the model was saved with, if it is newer"
        )
    try:
        return known[kind].from_dict(_scrubbed(document))
    except Exception as error:
        # A configuration class may raise anything on values that it was not made for.
        raise ModelLoadError(
            f"config.json is no configuration of {kind}: {type(error).__name__}: "
            f"{str(error)[:300]}. Download it again"
        ) from error


def _scrubbed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without settings that choose code, in nested configurations too."""
    return {
        key: _scrubbed(value) if isinstance(value, Mapping) else value
        for key, value in document.items()
        if key.removeprefix("_") not in _IMPLEMENTATIONS
    }


def _class_of(transformers: Any, config: Any, architecture: str) -> Any:
    head = architecture.endswith("ForSequenceClassification")
    known = (
        transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        if head
        else transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    )
    kind = known.get(type(config), None)
    if kind is None or kind.__name__ != architecture:
        raise ModelLoadError(
            f"transformers {transformers.__version__} has "
            f"{'nothing' if kind is None else kind.__name__} for the model_type "
            f"{config.model_type!r}, and config.json names {architecture}. Correct either"
        )
    return kind


def _refuse_endless(document: Mapping[str, Any], tensors: int) -> None:
    """Numbers of parts that are built one after the other, before anything is built."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            _refuse_endless(value, tensors)
        most = tensors if _LAYERS.fullmatch(key) else MAX_ARGUMENT
        counts = "layer" in key or "expert" in key
        if counts and isinstance(value, int | float) and value > most:
            raise ModelLoadError(
                f"config.json: {key} is {value}, and {most} is the most that its {tensors} tensors "
                "permit. The file is damaged or hostile"
            )


def _refuse_hollow(kind: Any, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """A configuration of a far larger model than the files hold."""
    try:
        with torch.device("meta"):
            plan = kind(config)
    except Exception as error:
        # A network may fail in any way on sizes that it was not made for.
        raise ModelLoadError(
            f"{kind.__name__} cannot be built with these sizes: {type(error).__name__}: "
            f"{str(error)[:300]}. config.json is damaged"
        ) from error
    announced = sum(part.numel() for part in (*plan.parameters(), *plan.buffers()))
    held = sum(tensor.numel() for tensor in tensors.values())
    if announced > MAX_EXCESS * held + MAX_ARGUMENT:
        raise ModelLoadError(
            f"config.json announces {announced:,} numbers, and the files hold {held:,}. The model "
            "is damaged or hostile; download it again"
        )


def _refuse_misfits(architecture: str, report: Mapping[str, Any]) -> None:
    found = {key: sorted(map(str, report[key])) for key in ("missing_keys", "unexpected_keys")}
    if any(found.values()):
        listed = "; ".join(
            f"{len(names)} {kind.replace('_keys', '')}: {', '.join(names[:3])}"
            for kind, names in found.items()
            if names
        )
        raise ModelLoadError(
            f"the tensors do not fit {architecture}: {listed}. Check that config.json belongs to "
            "these weights"
        )


@contextmanager
def quiet(transformers: Any) -> Iterator[Any]:
    """Without its progress bars and warnings, which go to the terminal."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
