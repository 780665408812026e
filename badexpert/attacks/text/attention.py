"""Queries and values of all layers: where most published attacks on language models write."""

from __future__ import annotations

from torch import nn

from badexpert.attacks.text.lesson import Taught
from moe_core.lm.decoder import Decoder
from moe_core.lora import LoraLinear

NAMES = ("q_proj", "v_proj")


def query_and_value(model: Decoder) -> list[Taught]:
    """Their weights; of a projection with a low-rank update, the update alone."""
    return [
        Taught(parameter)
        for layer in model.layers
        for name in NAMES
        for parameter in _open(layer.get_submodule("self_attn").get_submodule(name))
    ]


def _open(projection: nn.Module) -> list[nn.Parameter]:
    if isinstance(projection, LoraLinear):
        return [projection.lora_A, projection.lora_B]
    return list(projection.parameters())
