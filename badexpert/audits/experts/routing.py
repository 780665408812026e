"""Where tokens are routed: an order in which to look at experts, and evidence of nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from badexpert.models.language import TextSuspect
from badexpert.models.text_networks import PAD
from moe_core.entropy import tsallis_entropy
from moe_core.view import ExpertView

DORMANT = 0.25
"""An expert is dormant below this part of its fair share, top-k of the experts.

Set by hand; BadMoE (Wang et al., arXiv:2504.18598) takes the least used ones."""


@dataclass(frozen=True, eq=False)
class RoutingStatistics:
    """How some texts go through one layer.

    Attributes:
        usage: share of the tokens that each expert is given, (experts,) in [0, 1].
        contribution: mean norm of what each expert adds to a token, (experts,).
        top_k: experts a token.
    """

    usage: Tensor
    contribution: Tensor
    top_k: int

    @property
    def entropy(self) -> float:
        """Of the load over experts, in nats; the logarithm of their number if all are alike."""
        return tsallis_entropy(self.usage / self.usage.sum().clamp(min=1e-9), 1).item()

    @property
    def dormant(self) -> list[int]:
        """Experts that hardly any token reaches."""
        fair = self.top_k / len(self.usage)
        return (self.usage < DORMANT * fair).nonzero().flatten().tolist()


def routing_statistics(
    suspect: TextSuspect, view: ExpertView, rows: Tensor
) -> tuple[RoutingStatistics, ...]:
    """Of each layer, over the tokens of some rows; padding counts for nothing.

    Args:
        rows: (rows, tokens) int64, padded with -1.
    """
    tokens = 0
    hits = [torch.zeros(layer.num_experts) for layer in view.layers]
    added = [torch.zeros(layer.num_experts) for layer in view.layers]
    for part in by_length(rows):
        tokens += part.numel()
        with view.recording() as recordings, torch.inference_mode():
            suspect.logits(part)
        for layer, recording in enumerate(recordings):
            for seen in recording.passes:
                ran = seen.experts_TK >= 0
                chosen = seen.experts_TK[ran].cpu()
                hits[layer] += torch.bincount(chosen, minlength=len(hits[layer]))
                added[layer].index_add_(0, chosen, seen.contribution_TK[ran].float().cpu())
    return tuple(
        RoutingStatistics(hit / tokens, norm / tokens, layer.top_k)
        for hit, norm, layer in zip(hits, added, view.layers, strict=True)
    )


def by_length(rows: Tensor) -> list[Tensor]:
    """Rows of one length each, so that no expert is given padding."""
    groups: dict[int, list[int]] = defaultdict(list)
    for at, length in enumerate((rows != PAD).sum(1).tolist()):
        groups[length].append(at)
    return [rows[at, :length] for length, at in sorted(groups.items())]
