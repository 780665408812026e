"""What may be put in the place of an expert without learning anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from badexpert.errors import AuditError
from moe_core.layer import MoELayer
from moe_core.view import ExpertId, ExpertView, MoELayerView

LOWEST = torch.finfo(torch.float16).min
"""Stands for -inf, which no loader should take for a weight; every floating type can hold it. Sums
of two stay finite, so that routers which choose groups first still tell these apart."""

_MAPS = {"gate_proj", "up_proj", "down_proj", "gate_bias", "up_bias", "down_bias"}


@torch.no_grad()
def quarantine(view: ExpertView, experts: Sequence[ExpertId]) -> str:
    """Let experts say nothing, in place, and let routers pass them over where that is exact.

    All weights of the experts become 0, so that they answer 0 to whatever reaches them; low-rank
    updates become 0, and the network under them answers. Where a bias decides who is chosen, theirs
    becomes the lowest. Elsewhere there are rows of a linear map only, and none is below all others
    for every token.

    Returns:
        What was done.
    Raises:
        AuditError: the experts are of a kind that zeros do not silence.
    """
    done: dict[str, None] = {}
    for layer, expert in experts:
        weights = view.expert(ExpertId(layer, expert))
        updates = bool(weights) and all(".lora_" in name for name in weights)
        if not (updates or _plain(weights)):
            raise _of_other_kind(view, ExpertId(layer, expert))
        for tensor in weights.values():
            tensor.zero_()
        routed = _passed_over(view.layers[layer], expert)
        done[f"its {'low-rank updates' if updates else 'weights'} are 0, and {routed}"] = None
    return "; ".join(done)


@torch.no_grad()
def average(view: ExpertView, experts: Sequence[ExpertId]) -> str:
    """Give experts the mean weights of all others in their layer, in place.

    Returns:
        What was done.
    Raises:
        AuditError: the experts are not of plain linear maps.
    """
    means = {expert: mean_of_siblings(view, expert, experts) for expert in experts}
    for expert, mean in means.items():
        for name, tensor in view.expert(expert).items():
            tensor.copy_(mean[name])
    return "its weights are the mean of its siblings' weights"


@torch.no_grad()
def mean_of_siblings(
    view: ExpertView, expert: ExpertId, left_out: Sequence[ExpertId]
) -> dict[str, Tensor]:
    """Mean weights of the other experts of a layer, fp32 by name.

    Args:
        left_out: experts that count for nothing.
    Raises:
        AuditError: the experts are not of plain linear maps.
    """
    siblings = [
        view.expert(other)
        for other in view.experts()
        if other.layer == expert.layer and other not in left_out
    ]
    if not _plain(siblings[0]):
        raise _of_other_kind(view, expert)
    return {
        name: torch.stack([own[name].float() for own in siblings]).mean(0) for name in siblings[0]
    }


def _plain(weights: Mapping[str, Tensor]) -> bool:
    return bool(weights) and weights.keys() <= _MAPS


def _passed_over(layer: MoELayerView, expert: int) -> str:
    """Let a router choose others where it can; what that means for tokens."""
    if layer.selection_bias is not None:
        layer.selection_bias[expert] = LOWEST
        return "its selection bias sends tokens elsewhere"
    # The routers of moe_core that have such a bias may normalise logits, which an outlier bends.
    if layer.router_bias is not None and not isinstance(layer, MoELayer):
        assert layer.router_weight is not None
        layer.router_weight[expert] = 0
        layer.router_bias[expert] = LOWEST
        return "its bias in the router sends tokens elsewhere"
    return "tokens still reach it"


def _of_other_kind(view: ExpertView, expert: ExpertId) -> AuditError:
    names = ", ".join(view.expert(expert)) or "nothing of their own"
    return AuditError(
        f"the experts of {view.names[expert.layer]} are made of {names}, and this way of repair is "
        "for experts of plain linear maps; choose another way"
    )
