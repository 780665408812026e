"""Settling the preprocessing: what was stated, by whom, and what had to be assumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import timm
import torchvision

from badexpert.errors import ModelLoadError
from badexpert.loading.architecture import (
    Architecture,
    Arguments,
    TimmArchitecture,
    TorchvisionArchitecture,
)
from badexpert.models.origin import PreprocessingSource
from badexpert.preprocessing import Interpolation, Preprocessing, PreprocessingOverrides

_TELLING = ("height", "width", "mean", "std")
"""The fields whose wrong value ruins a model's accuracy."""


@dataclass(frozen=True)
class SettledPreprocessing:
    """A preprocessing and who said so.

    Attributes:
        assumed: fields that nobody stated.
    """

    preprocessing: Preprocessing
    source: PreprocessingSource
    assumed: tuple[str, ...]


def settle_preprocessing(
    overrides: PreprocessingOverrides,
    *,
    config: Mapping[str, Any] | None,
    architecture: Architecture,
    arguments: Arguments,
    channels: int,
) -> SettledPreprocessing:
    """Combine all that is known: flags, then ``config.json``, then the tensors, then defaults.

    Args:
        config: of the model's folder, in timm's layout.
        arguments: that the network is built with; ``img_size`` among them states the size.
        channels: of the network's first layer.
    Raises:
        ModelLoadError: the size is unknown, or the values contradict each other.
    """
    configured = _from_timm(_timm_section(config), channels) if config else {}
    stated = {**configured, **_size(arguments.get("img_size")), **overrides.stated()}
    defaults = _defaults(architecture, channels)
    if _shape({**defaults, **stated}) != _shape(defaults):
        # The default crop belongs to the default size: 224 of 256 pixels of a photograph.
        defaults.pop("crop_share", None)
    values: dict[str, Any] = {"channels": channels, **_NEUTRAL, **_plain(channels), **defaults}
    values |= stated
    assumed = tuple(name for name in _TELLING if name not in stated)
    if values["height"] is None or values["width"] is None:
        raise ModelLoadError(
            f"the input size of {architecture.spec} is not known. Give height and width"
        )
    try:
        preprocessing = Preprocessing(**values)
    except (ValueError, TypeError) as error:
        raise ModelLoadError(f"the preprocessing is contradictory: {error}") from error
    return SettledPreprocessing(preprocessing, _source(assumed, configured), assumed)


_NEUTRAL: dict[str, Any] = {"height": None, "width": None}


def _plain(channels: int) -> dict[str, Any]:
    return {"mean": (0.0,) * channels, "std": (1.0,) * channels}


def _shape(values: Mapping[str, Any]) -> tuple[Any, Any]:
    return values.get("height"), values.get("width")


def _source(assumed: tuple[str, ...], configured: Mapping[str, Any]) -> PreprocessingSource:
    if assumed:
        return "assumed"
    return "timm configuration" if configured else "given"


def _size(image_size: object) -> dict[str, int]:
    if isinstance(image_size, int):
        return {"height": image_size, "width": image_size}
    if isinstance(image_size, list | tuple) and len(image_size) == 2:
        return {"height": int(image_size[0]), "width": int(image_size[1])}
    return {}


def _timm_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section = config.get("pretrained_cfg", config)
    return section if isinstance(section, Mapping) else {}


def _defaults(architecture: Architecture, channels: int) -> dict[str, Any]:
    """What the library's own weights of this architecture were trained with."""
    if isinstance(architecture, TimmArchitecture):
        cfg = timm.get_pretrained_cfg(architecture.name)
        return _from_timm(dataclasses.asdict(cfg), channels) if cfg is not None else {}
    if isinstance(architecture, TorchvisionArchitecture):
        return _from_torchvision(architecture.name, channels)
    return {}


def _from_timm(cfg: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """The fields of a timm configuration that are well-formed."""
    found: dict[str, Any] = {}
    size = cfg.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3:
        found |= _size(list(size[1:]))
    for name in ("mean", "std"):
        if isinstance(values := cfg.get(name), list | tuple) and values:
            found[name] = _per_channel(tuple(float(value) for value in values), channels)
    if cfg.get("interpolation") in get_args(Interpolation):
        found["interpolation"] = cfg["interpolation"]
    if isinstance(share := cfg.get("crop_pct"), int | float) and 0 < share <= 1:
        found["crop_share"] = float(share)
    return found


def _from_torchvision(name: str, channels: int) -> dict[str, Any]:
    weights = torchvision.models.get_model_weights(name)
    default = getattr(weights, "DEFAULT", None)
    if default is None:
        return {}
    preset = default.transforms()
    side, resized = preset.crop_size[0], preset.resize_size[0]
    return {
        "height": side,
        "width": side,
        "mean": _per_channel(tuple(preset.mean), channels),
        "std": _per_channel(tuple(preset.std), channels),
        "interpolation": preset.interpolation.value,
        "crop_share": min(side / resized, 1.0),
    }


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Values for each channel; colour values are averaged for a grayscale network."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels
