"""The choice of today's routers as one operation: score, bias, top-k, gate weights and load."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from moe_core.kernels import backends
from moe_core.kernels.backends import Backend
from moe_core.routers.selection import highest, pick, renormalise
from moe_core.routing import count_experts

Scoring = Literal["softmax", "sigmoid"]


class Routed(NamedTuple):
    """Where each token goes.

    Attributes:
        weights_TK: gate weights, (tokens, slots), at least fp32; 0 where no expert was left.
        experts_TK: best first, (tokens, slots) int64; -1 where no expert was left.
        probs_TE: probabilities, or affinities for sigmoids, (tokens, experts), at least fp32.
        load_E: filled slots per expert, (experts,) int32.
    """

    weights_TK: Tensor
    experts_TK: Tensor
    probs_TE: Tensor
    load_E: Tensor


def route_top_k(
    logits_TE: Tensor,
    top_k: int,
    *,
    scoring: Scoring = "softmax",
    normalised: bool = True,
    bias_E: Tensor | None = None,
    excluded_E: Tensor | None = None,
    override_TK: Tensor | None = None,
    backend: Backend | None = None,
) -> Routed:
    """Each token's ``top_k`` experts; ties go to the lowest index.

    Args:
        logits_TE: (tokens, experts); -inf forbids an expert.
        normalised: whether a token's gate weights sum to 1.
        bias_E: (experts,); added to the scores that choose, not to gate weights; no gradient.
        excluded_E: (experts,) bool; to be routed around, as if they had been cut out.
        override_TK: (tokens, slots); experts to run instead of those chosen, with their gate
            weights; -1 keeps the choice.
        backend: None takes Triton where it can be had.
    Raises:
        ValueError: ``top_k`` is not between 1 and the experts, or Triton cannot compute this.
    """
    if not 1 <= top_k <= logits_TE.shape[1]:
        raise ValueError(f"top_k={top_k} of {logits_TE.shape[1]} experts; give 1 to that many")
    reason = backends.triton_refuses(logits_TE, logits_TE.shape[1])
    if backend == "triton" and reason is not None:
        raise ValueError(f"the Triton programs cannot compute this: {reason}")
    if backend is None and reason is not None:
        backends.falls_back(logits_TE, reason)
    if backend in (None, "triton") and reason is None:
        from moe_core.kernels.gpu.routing import route

        bias_E = None if bias_E is None else bias_E.detach()
        sigmoid = scoring == "sigmoid"
        return Routed(
            *route(logits_TE, top_k, sigmoid, normalised, bias_E, excluded_E, override_TK)[:4]
        )
    return _plainly(logits_TE, top_k, scoring, normalised, bias_E, excluded_E, override_TK)


def _plainly(
    logits_TE: Tensor,
    top_k: int,
    scoring: Scoring,
    normalised: bool,
    bias_E: Tensor | None,
    excluded_E: Tensor | None,
    override_TK: Tensor | None,
) -> Routed:
    logits_TE = logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32))
    if excluded_E is not None:
        logits_TE = logits_TE.masked_fill(excluded_E, -torch.inf)
    probs_TE = logits_TE.sigmoid() if scoring == "sigmoid" else logits_TE.softmax(-1)
    # Logits have the same order, and keep it where the probabilities saturate.
    keys_TE = logits_TE
    if bias_E is not None:
        keys_TE = (probs_TE + bias_E).masked_fill(logits_TE == -torch.inf, -torch.inf)
    experts_TK = highest(keys_TE, top_k)
    weights_TK = pick(probs_TE, experts_TK)
    if normalised:
        weights_TK = renormalise(weights_TK)
    if override_TK is not None:
        experts_TK = experts_TK.where(override_TK == -1, override_TK)
    load_E = count_experts(experts_TK, logits_TE.shape[1]).int()
    return Routed(weights_TK, experts_TK, probs_TE, load_E)
