"""What ``config.json`` says about the architecture, in timm's layout. It is data, never code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm

from badexpert.errors import ModelLoadError, UnsafeModelError
from badexpert.loading.architecture import checked_arguments

MAX_ARGUMENT = 65_536
"""No width, depth or size of a real network is larger; building a larger one would not end."""


@dataclass(frozen=True)
class ConfiguredArchitecture:
    """An architecture that the folder names itself."""

    spec: str
    arguments: Mapping[str, Any]


def configured_architecture(config: Mapping[str, Any]) -> ConfiguredArchitecture | None:
    """The architecture that a configuration names; None when it names none.

    Raises:
        ModelLoadError: the configuration is for another library, wants remote code, or has
            arguments that no honest network has.
    """
    name = config.get("architecture")
    if name is None:
        _refuse_transformers(config)
        return None
    if not isinstance(name, str) or not timm.is_model(name):
        raise ModelLoadError(
            f"config.json names the architecture {name!r}, which timm {timm.__version__} does not "
            "know. Name one with --arch"
        )
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping):
        raise ModelLoadError("config.json: model_args must be an object; download it again")
    checked = checked_arguments(arguments)
    _refuse_giants(checked)
    return ConfiguredArchitecture(f"timm:{name}", checked)


def _refuse_transformers(config: Mapping[str, Any]) -> None:
    if "auto_map" in config:
        raise UnsafeModelError(
            "config.json asks for code from the model's repository (auto_map), which is never "
            "run. If you have the network in your own code, name it with --arch "
            "python:package.module:factory"
        )
    if names := config.get("architectures"):
        raise ModelLoadError(
            f"config.json is for the transformers library ({names}), of whose networks only "
            "language models are supported. Name a network with the same weights with --arch, or "
            "use the model's version for timm"
        )


def _refuse_giants(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        for number in _numbers(value):
            if abs(number) > MAX_ARGUMENT:
                raise ModelLoadError(
                    f"config.json: model_args.{name} is {number}, and at most {MAX_ARGUMENT} is "
                    "permitted. The file is damaged or hostile"
                )


def _numbers(value: object) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []
