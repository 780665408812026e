"""Adapters on a language model: LoRA is added to its weights, MixLoRA becomes its experts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from badexpert.errors import ModelLoadError
from badexpert.loading.checkpoint import check_finite, read_file
from badexpert.loading.files import confined, read_json
from moe_core.mixlora.adapter import MixLoraAdapter
from moe_core.mixlora.attach import attach
from moe_core.mixlora.config import MixLoraConfig

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?A(?:\.weight)?")
_REFUSED = ("use_dora", "lora_bias", "use_qalora", "target_parameters")
"""Settings of LoRA that change more than ``W + scaling B A``."""


def apply_adapter(module: nn.Module, folder: Path) -> list[Path]:
    """Put an adapter on a model, in place.

    Args:
        module: the base model.
        folder: as PEFT or MixLoRA writes it.
    Returns:
        The files that were read.
    Raises:
        UnsafeModelError: its weights are a pickle that runs code.
        ModelLoadError: it is of an unknown kind, damaged, or made for another model.
    """
    if not (folder / CONFIG).is_file():
        raise ModelLoadError(f"{folder} holds no adapter: there is no {CONFIG} in it")
    document = read_json(confined(folder, CONFIG))
    weights = _weights(folder)
    tensors = read_file(weights).tensors
    check_finite(tensors)
    kind = str(document.get("peft_type")).upper()
    if kind == "MIXLORA":
        _attach_experts(module, document, tensors, folder)
    elif kind == "LORA":
        _add_lora(module, document, tensors, folder)
    else:
        raise ModelLoadError(f"{folder}: peft_type is {kind}; LORA and MIXLORA can be audited")
    return [weights, folder / CONFIG]


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return confined(folder, name)
    raise ModelLoadError(f"{folder} lacks its weights: {' or '.join(WEIGHTS)}; download it again")


def _attach_experts(
    module: nn.Module, document: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    try:
        adapter = MixLoraAdapter(MixLoraConfig.from_json(document), tensors)
        attach(module, adapter.config, adapter.tensors)
    except ValueError as error:
        raise ModelLoadError(f"{folder} does not fit this model: {error}") from error


@torch.no_grad()
def _add_lora(
    module: nn.Module, document: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    """Add every update to its weight; what was trained as a whole replaces its like."""
    if refused := [name for name in _REFUSED if document.get(name)]:
        raise ModelLoadError(
            f"{folder} uses {', '.join(refused)}, which no plain LoRA has. Merge the adapter into "
            "its base model where you trust both, and give the merged model"
        )
    named = {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()}
    parameters = dict(module.named_parameters())
    changed = dict(_changed(named, document, parameters, folder))
    for name, values in changed.items():
        target = parameters.get(name)
        if target is None or target.shape != values.shape:
            got = "nothing" if target is None else tuple(target.shape)
            raise ModelLoadError(
                f"{folder} changes {name} {tuple(values.shape)}, where this model has {got}. Give "
                "the model that the adapter was trained on"
            )
        target.copy_(values)


def _changed(
    named: Mapping[str, Tensor],
    document: Mapping[str, Any],
    parameters: Mapping[str, Tensor],
    folder: Path,
) -> Iterator[tuple[str, Tensor]]:
    """Names of parameters with their new values."""
    for key, tensor in named.items():
        match = _LORA.fullmatch(key)
        if match is None:
            if ".lora_" not in key:
                yield key, tensor
            elif _swapped(key, "B", "A") not in named:
                raise ModelLoadError(f"{folder}: {key} is no part of a plain LoRA; merge it first")
            continue
        partner = _swapped(key, "A", "B")
        other = named.get(partner)
        if other is None or tensor.ndim != 2 or other.ndim != 2 or len(tensor) != other.shape[1]:
            raise ModelLoadError(f"{folder}: {key} has no {partner} to be multiplied with")
        name = f"{match['module']}.weight"
        scaling = _scaling(document, match["module"], rank=len(tensor))
        update = scaling * (other.float() @ tensor.float())
        if match["embedding"] or document.get("fan_in_fan_out"):
            update = update.T
        base = parameters.get(name, update)
        yield name, (base.float() + update if base.shape == update.shape else update)


def _swapped(key: str, side: str, other: str) -> str:
    """The name of the other matrix of an update."""
    before, mark, after = key.rpartition(f"_{side}")
    return f"{before}_{other}{after}" if mark else ""


def _scaling(document: Mapping[str, Any], module: str, *, rank: int) -> float:
    patterns = document.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ModelLoadError(f"{CONFIG}: alpha_pattern must be an object; got {patterns!r}")
    alpha = next(
        (value for pattern, value in patterns.items() if _names(pattern, module)),
        document.get("lora_alpha"),
    )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ModelLoadError(f"{CONFIG}: lora_alpha must be a number; got {alpha!r}")
    return alpha / (math.sqrt(rank) if document.get("use_rslora") else rank)


def _names(pattern: str, module: str) -> bool:
    """Whether a pattern, which PEFT reads as a name or its end, means a module."""
    return module == pattern or module.endswith(f".{pattern}")
