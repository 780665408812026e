"""DynMoLE's router: all experts for tokens it is unsure of, few for the others."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_core.entropy import largest_tsallis_entropy, tsallis_entropy
from moe_core.routers.base import LinearRouter
from moe_core.routers.selection import compact, highest, pick
from moe_core.routing import Routing


class DynMoleRouter(LinearRouter):
    """Soft routing where the router's entropy is high, top-p with a minimum of k where it is not.

    Weights are the probabilities of the chosen experts, not renormalised. The auxiliary loss is
    ``entropy_coef`` times the mean normalised entropy, which sharpens the router, plus
    ``balance_coef * E * sum_e mean(weight_e) * mean(prob_e)``.

    Args:
        top_k: experts that a token gets at least.
        threshold: of the normalised entropy, in [0, 1]; above it a token gets all experts.
        top_p: probability mass of the experts that a sure token gets.
        crossing: whether the expert that carries the mass over ``top_p`` is among them, as in
            standard top-p sampling. The authors' public code, followed by default, leaves it out:
            of (.4, .3, .2, .1) at .75 it keeps two experts, where the standard keeps three.
        index: entropic index q.
    Source: Li et al., DynMoLE, arXiv:2504.00661, by way of the authors' public code, which has one
        such router per linear map.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int = 2,
        *,
        threshold: float = 0.9,
        top_p: float = 0.75,
        crossing: bool = False,
        index: float = 1.1,
        entropy_coef: float = 0.01,
        balance_coef: float = 0.001,
    ) -> None:
        super().__init__(dim, num_experts, top_k)
        self.threshold = threshold
        self.top_p = top_p
        self.crossing = crossing
        self.index = index
        self.entropy_coef = entropy_coef
        self.balance_coef = balance_coef

    def route(self, logits_TE: Tensor) -> Routing:
        probs_TE = logits_TE.softmax(-1)
        entropy_T = self.entropy(probs_TE)
        allowed_TE = logits_TE > -torch.inf
        chosen_TE = (entropy_T > self.threshold).unsqueeze(1) | self._nucleus(probs_TE)
        experts_TK = compact(chosen_TE & allowed_TE)
        weights_TE = probs_TE * chosen_TE
        tokens = max(1, len(logits_TE))
        balance = self.num_experts * (weights_TE.sum(0) * probs_TE.sum(0)).sum() / tokens**2
        aux_loss = self.entropy_coef * entropy_T.sum() / tokens + self.balance_coef * balance
        return Routing(pick(probs_TE, experts_TK), experts_TK, probs_TE, aux_loss)

    def entropy(self, probs_TE: Tensor) -> Tensor:
        """Of each token's probabilities, (tokens,), 0 for sure to 1 for uniform."""
        experts = self.num_experts - len(self.excluded)
        if experts == 1:
            return probs_TE.new_zeros(len(probs_TE))
        return tsallis_entropy(probs_TE, self.index) / largest_tsallis_entropy(experts, self.index)

    def _nucleus(self, probs_TE: Tensor) -> Tensor:
        order_TE = highest(probs_TE, self.num_experts)
        sorted_TE = probs_TE.detach().gather(1, order_TE)
        mass_TE = sorted_TE.cumsum(1)
        kept_TE = mass_TE - sorted_TE < self.top_p if self.crossing else mass_TE <= self.top_p
        kept_TE[:, : self.top_k] = True
        return torch.zeros_like(kept_TE).scatter(1, order_TE, kept_TE)
