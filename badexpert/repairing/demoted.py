"""Compressed experts as ``moe_core`` computes them: named ones are demoted to a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from badexpert.errors import AuditError
from moe_core.experts.compressed import CompressedExperts
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.lm.decoder import Decoder
from moe_core.view import ExpertId


def demote(decoder: Decoder, experts: Sequence[ExpertId]) -> None:
    """Let stand-ins of ones stand in for experts, in place; what the experts knew is erased.

    The configuration says so too, so that the folder of the model is read as what it is.

    Raises:
        AuditError: the experts are of another kind than ``swiglu``.
    """
    places = [at for at, layer in enumerate(decoder.layers) if isinstance(layer.mlp, MoELayer)]
    changed = dict(decoder.config.other_ffn)
    for index in sorted({expert.layer for expert in experts}):
        at = places[index]
        demoted = tuple(sorted(expert.expert for expert in experts if expert.layer == index))
        _demote_in(decoder.layers[at].get_submodule("mlp"), demoted)
        changed[at] = replace(
            decoder.config.ffn_of(at), experts="compressed", expert_options={"demoted": demoted}
        )
    decoder.config = replace(decoder.config, other_ffn=changed)


@torch.no_grad()
def _demote_in(layer: torch.nn.Module, demoted: Sequence[int]) -> None:
    assert isinstance(layer, MoELayer)
    if type(layer.experts) is not SwiGLUExperts:
        raise AuditError(
            f"{type(layer.experts).__name__} cannot be compressed, only experts 'swiglu' can; "
            "choose another way"
        )
    layer.experts = CompressedExperts.of(layer.experts, demoted=demoted)
    for expert in demoted:
        for name in ("gate_proj", "up_proj", "down_proj"):
            layer.experts.expert(expert)[name].zero_()
