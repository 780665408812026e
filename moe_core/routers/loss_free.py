"""Balance without an auxiliary loss: a bias per expert that only selection sees."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from moe_core.load import sum_over_ranks
from moe_core.routers.base import LinearRouter
from moe_core.routers.selection import highest, pick
from moe_core.routing import Routing


class LossFreeRouter(LinearRouter):
    """Selects the k highest of ``score + bias`` and weighs by the score alone, not renormalised.

    After each optimiser step ``after_step`` moves the bias of every expert by exactly
    ``update_rate``: down if it got more than the mean of all tokens since the step before, over all
    micro-batches and ranks, up if less, not at all if as many. Evaluation counts nothing.

    Args:
        gate: ``sigmoid`` as in the paper, or ``softmax``.
        update_rate: of the bias, per step.
        group: ranks whose tokens count; the default group if None.
    Attributes:
        bias: (experts,) fp32, a buffer; part of the checkpoint, never of the optimiser. Cast to
            bf16, it would soon be too coarse for its updates.
        counted: tokens of each expert since the last step, (experts,) int64, not in the checkpoint.
    Source: Wang et al., arXiv:2408.15664.
    """

    bias: Tensor
    counted: Tensor

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int = 2,
        *,
        gate: Literal["sigmoid", "softmax"] = "sigmoid",
        update_rate: float = 1e-3,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(dim, num_experts, top_k)
        self.gate = gate
        self.update_rate = update_rate
        self._group = group
        self.register_buffer("bias", torch.zeros(num_experts))
        counted = torch.zeros(num_experts, dtype=torch.long)
        self.register_buffer("counted", counted, persistent=False)

    @property
    def selection_bias(self) -> Tensor:
        return self.bias

    def route(self, logits_TE: Tensor) -> Routing:
        scores_TE = logits_TE.sigmoid() if self.gate == "sigmoid" else logits_TE.softmax(-1)
        forbidden = logits_TE == -torch.inf
        experts_TK = highest((scores_TE + self.bias).masked_fill(forbidden, -torch.inf), self.top_k)
        weights_TK = pick(scores_TE, experts_TK)
        routing = Routing(weights_TK, experts_TK, scores_TE, logits_TE.new_zeros(()))
        if self.training:
            self.counted += routing.load_E
        return routing

    @torch.no_grad()
    def after_step(self) -> None:
        load_E = sum_over_ranks(self.counted, self._group).double()
        self.bias += self.update_rate * (load_E.mean() - load_E).sign()
        self.counted.zero_()
