"""Experts in the order in which simple statistics would suspect them: baselines of the audit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from badexpert.audits.experts import ExpertAudit
from badexpert.audits.experts.routing import RoutingStatistics
from moe_core.view import ExpertId

KNOCK_OUT = "knock-out"
DORMANCY = "dormancy"
SHIFT = "JS of routing"

Scores = tuple[Tensor, ...]
"""Of each layer, (experts,) each; higher = more suspicious."""


def rankings(audit: ExpertAudit, triggered: tuple[RoutingStatistics, ...]) -> dict[str, Scores]:
    """The audit's own loss without each expert, where a trigger was found, and the baselines.

    ``dormancy`` prefers the least used of their fair share; ``JS of routing`` those that add most
    to the Jensen-Shannon divergence between the loads of texts with and without the trigger;
    the others are the weight priors, by how far from the layer's median.

    Args:
        triggered: of texts with the best trigger that the audit found.
    """
    found: dict[str, Scores] = {}
    attributed = [one.attribution for one in audit.judged if one.attribution is not None]
    if attributed:
        best = max(attributed, key=lambda one: one.success)
        found[KNOCK_OUT] = tuple(torch.tensor(row) for row in best.table)
    found[DORMANCY] = tuple(
        -layer.usage * len(layer.usage) / layer.top_k for layer in audit.routing
    )
    found[SHIFT] = tuple(
        _divergence(with_it.usage, without.usage)
        for with_it, without in zip(triggered, audit.routing, strict=True)
    )
    for measure in audit.priors[0]:
        found[measure] = tuple(layer[measure].abs() for layer in audit.priors)
    return found


def rank_of(planted: Collection[ExpertId], scores: Scores) -> int:
    """Of the first planted expert among all experts of the model; 1 is the most suspicious."""
    each = torch.cat(list(scores))
    starts = [0, *torch.tensor([len(layer) for layer in scores]).cumsum(0).tolist()]
    best = max(each[starts[layer] + expert].item() for layer, expert in planted)
    return int((each > best).sum()) + 1


def ranks(planted: Collection[ExpertId], found: Mapping[str, Scores]) -> dict[str, int]:
    """``rank_of`` under every ranking; none where nothing was planted in an expert."""
    return {name: rank_of(planted, scores) for name, scores in found.items()} if planted else {}


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """What each expert adds to the divergence of two loads, (experts,), in nats."""
    p, q = (load / load.sum().clamp(min=1e-9) for load in (first, second))
    middle = ((p + q) / 2).clamp(min=1e-12)
    return (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)) / 2
