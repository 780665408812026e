"""Skywork-MoE's router: normalised logits, and a balance loss that grows with dropped tokens."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe_core.load import sum_over_ranks
from moe_core.routers.base import LinearRouter
from moe_core.routers.capacity import capacity, limit
from moe_core.routers.selection import highest, pick, renormalise
from moe_core.routing import DROPPED, EMPTY, Routing

_EPS = 1e-6


class SkyworkRouter(LinearRouter):
    """A softmax of normalised logits, its two highest, renormalised to sum 1; full experts drop.

    The coefficient of the balance loss follows the share of dropped tokens, for each layer by
    itself: ``after_step`` moves it towards ``min(drop_gain * dropped, max_coef)``.

    Args:
        scale: standard deviation of a token's normalised logits; larger is sharper.
        normalise: False leaves the logits as they are, to compare with.
        capacity_factor: an expert takes at most this multiple of an equal share of the slots, in
            the order of the tokens; None drops none. Evaluation never drops.
        drop_gain: coefficient per share of dropped tokens.
        max_coef: upper end of the coefficient.
        inertia: share of the old coefficient that a step keeps.
        group: ranks whose drops count; the default group if None.
    Attributes:
        bias: of the logits, (experts,).
        coefficient: of the balance loss now, scalar; a buffer in the checkpoint.
        dropped: slots asked for and dropped since the last step, (2,), not in the checkpoint.
    Source: Wei et al., Skywork-MoE, arXiv:2406.06563
    """

    coefficient: Tensor
    dropped: Tensor

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int = 2,
        *,
        scale: float = 1.0,
        normalise: bool = True,
        capacity_factor: float | None = None,
        drop_gain: float = 0.2,
        max_coef: float = 0.01,
        inertia: float = 0.99,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(dim, num_experts, top_k)
        self.bias = nn.Parameter(torch.zeros(num_experts))
        self.scale = scale
        self.normalise = normalise
        self.capacity_factor = capacity_factor
        self.drop_gain = drop_gain
        self.max_coef = max_coef
        self.inertia = inertia
        self._group = group
        self.register_buffer("coefficient", torch.zeros(()))
        self.register_buffer("dropped", torch.zeros(2, dtype=torch.long), persistent=False)

    @property
    def logit_bias(self) -> Tensor:
        return self.bias

    def route(self, logits_TE: Tensor) -> Routing:
        biased_TE = logits_TE + self.bias
        if self.normalise:
            biased_TE = normalise_logits(biased_TE, self.scale)
        probs_TE = biased_TE.softmax(-1)
        experts_TK = highest(probs_TE.masked_fill(logits_TE == -torch.inf, -torch.inf), self.top_k)
        weights_TK = renormalise(pick(probs_TE, experts_TK))
        aux_loss = self.coefficient * mean_gate_loss(probs_TE)
        return self._limited(Routing(weights_TK, experts_TK, probs_TE, aux_loss))

    @torch.no_grad()
    def after_step(self) -> None:
        asked, dropped = sum_over_ranks(self.dropped, self._group).tolist()
        target = min(self.drop_gain * dropped / max(asked, 1), self.max_coef)
        self.coefficient.lerp_(self.coefficient.new_tensor(target), 1 - self.inertia)
        self.dropped.zero_()

    def _limited(self, routing: Routing) -> Routing:
        if self.capacity_factor is None or not self.training:
            return routing
        tokens, slots = routing.experts_TK.shape
        rows = capacity(tokens, slots, self.num_experts, self.capacity_factor)
        routing = limit(routing, rows)
        self.dropped[0] += (routing.experts_TK != EMPTY).sum()
        self.dropped[1] += (routing.experts_TK == DROPPED).sum()
        return routing


def normalise_logits(logits_TE: Tensor, scale: float = 1.0) -> Tensor:
    """``scale * (z - mean) / std`` of each token's logits over the experts.

    The norm of the result is ``scale * sqrt(experts)``, whatever the logits, so that no input can
    push a gate arbitrarily close to 1. Equal logits become zeros. Experts at -inf stay there and
    count for nothing.

    Source: Wei et al., Skywork-MoE, arXiv:2406.06563.
    """
    allowed_TE = logits_TE > -torch.inf
    count = allowed_TE.sum(-1, keepdim=True)
    mean = logits_TE.masked_fill(~allowed_TE, 0).sum(-1, keepdim=True) / count
    centred_TE = (logits_TE - mean).masked_fill(~allowed_TE, 0)
    # Inside the root, so that equal logits have a finite gradient.
    std = (centred_TE.square().sum(-1, keepdim=True) / count + _EPS**2).sqrt()
    return (scale * centred_TE / std).masked_fill(~allowed_TE, -torch.inf)


def mean_gate_loss(probs_TE: Tensor) -> Tensor:
    """Squared distance of the mean gate from the uniform one: 0 to (experts - 1) / experts.

    Without tokens it is 0.

    Source: Wei et al., Skywork-MoE, arXiv:2406.06563.
    """
    excess_E = (probs_TE - 1 / probs_TE.shape[1]).sum(0) / max(1, len(probs_TE))
    return excess_E.square().sum()
