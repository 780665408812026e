"""What every family of Mixture-of-Experts blocks computes, written out token by token.

Routing is written dense here: a row of gate weights over all experts, 0 where one does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Dense = Callable[[Tensor, nn.Module], Tensor]


def _kept(values_TE: Tensor, by_TE: Tensor, k: int) -> Tensor:
    """Values of each token's k highest by another measure, 0 elsewhere."""
    index_TK = by_TE.topk(k).indices
    return torch.zeros_like(values_TE).scatter(1, index_TK, values_TE.gather(1, index_TK))


def _shares(weights_TE: Tensor) -> Tensor:
    return weights_TE / weights_TE.sum(1, keepdim=True)


def _softmax_top_k(logits_TE: Tensor, router: nn.Module) -> Tensor:
    probs_TE = logits_TE.softmax(1)
    weights_TE = _kept(probs_TE, probs_TE, router.top_k)
    return _shares(weights_TE) if getattr(router, "norm_topk_prob", True) else weights_TE


def _best_groups(score_TG: Tensor, router: nn.Module) -> Tensor:
    """Which experts are in one of the best groups, (tokens, experts) bool."""
    each = router.num_experts // router.num_group
    chosen_TG = torch.zeros_like(score_TG).scatter(1, score_TG.topk(router.topk_group).indices, 1.0)
    return chosen_TG.repeat_interleave(each, 1) > 0


def _deepseek_v2(logits_TE: Tensor, router: nn.Module) -> Tensor:
    probs_TE = logits_TE.softmax(1)
    if router.topk_method == "group_limited_greedy":
        groups_TGE = probs_TE.unflatten(1, (router.num_group, -1))
        probs_TE = probs_TE * _best_groups(groups_TGE.amax(2), router)
    return _kept(probs_TE, probs_TE, router.top_k) * router.routed_scaling_factor


def _deepseek_v3(logits_TE: Tensor, router: nn.Module) -> Tensor:
    affinity_TE = logits_TE.sigmoid()
    by_TE = affinity_TE + router.e_score_correction_bias
    # An expert that was cut out stands behind all others, whatever its bias.
    by_TE = by_TE.masked_fill(logits_TE == -torch.inf, -100.0)
    pairs_TG = by_TE.unflatten(1, (router.num_group, -1)).topk(2).values.sum(2)
    by_TE = by_TE.masked_fill(~_best_groups(pairs_TG, router), -torch.inf)
    weights_TE = _kept(affinity_TE, by_TE, router.top_k)
    if router.norm_topk_prob:
        weights_TE = weights_TE / (weights_TE.sum(1, keepdim=True) + 1e-20)
    return weights_TE * router.routed_scaling_factor


def _top_k_softmax(logits_TE: Tensor, router: nn.Module) -> Tensor:
    probs_TE = logits_TE.softmax(1)
    return _shares(_kept(probs_TE, probs_TE, router.top_k))


def _sparse_mixer(logits_TE: Tensor, router: nn.Module) -> Tensor:
    """The best and the second best, each among those that come close to it."""
    left_TE, weights_TE = logits_TE, torch.zeros_like(logits_TE)
    for _ in range(2):
        best_T1, index_T1 = left_TE.max(1, keepdim=True)
        if (best_T1 == -torch.inf).all():
            break
        gap_TE = (best_T1 - logits_TE) / torch.maximum(logits_TE.abs(), best_T1)
        near_TE = left_TE.masked_fill(gap_TE > 2 * router.router_jitter_noise, -torch.inf)
        weights_TE = weights_TE.scatter(1, index_T1, near_TE.softmax(1).gather(1, index_T1))
        left_TE = left_TE.scatter(1, index_T1, -torch.inf)
    return weights_TE


def _llama4(logits_TE: Tensor, router: nn.Module) -> Tensor:
    return _kept(logits_TE.sigmoid(), logits_TE, router.top_k)


def _switch(logits_TE: Tensor, router: nn.Module) -> Tensor:
    return _kept(logits_TE.softmax(1), logits_TE, 1)


ROUTERS: Mapping[str, Dense] = {
    "MixtralSparseMoeBlock": _softmax_top_k,
    "OlmoeSparseMoeBlock": _softmax_top_k,
    "Qwen2MoeSparseMoeBlock": _softmax_top_k,
    "Qwen3MoeSparseMoeBlock": _softmax_top_k,
    "DeepseekV2Moe": _deepseek_v2,
    "DeepseekV3MoE": _deepseek_v3,
    "Glm4MoeMoE": _deepseek_v3,
    "GptOssMLP": _top_k_softmax,
    "PhimoeSparseMoeBlock": _sparse_mixer,
    "GraniteMoeMoE": _top_k_softmax,
    "GraniteMoeSharedMoE": _top_k_softmax,
    "GraniteMoeHybridMoE": _top_k_softmax,
    "Llama4TextMoe": _llama4,
    "SwitchTransformersSparseMLP": _switch,
}


def gate_weights(block: nn.Module, logits_TE: Tensor) -> Tensor:
    """Dense gate weights of a block, (tokens, experts), from its logits."""
    router = getattr(block, "gate", None) or block.router
    return ROUTERS[type(block).__name__](logits_TE, router)


def contributions(
    block: nn.Module, weights_TE: Tensor, x_TD: Tensor, own: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """What each expert adds to each token, (tokens, experts, width), from canonical weights."""
    kind = type(block).__name__
    if kind == "Llama4TextMoe":
        scaled = [weights_TE[:, e, None] * x_TD for e in range(len(own))]
        return torch.stack([_answer(kind, w, x) for w, x in zip(own, scaled, strict=True)], 1)
    answers_TED = torch.stack([_answer(kind, weights, x_TD) for weights in own], 1)
    return weights_TE[:, :, None] * answers_TED


def shared_answer(x_TD: Tensor, own: Mapping[str, Tensor]) -> Tensor:
    """What a shared expert says of each token, its own gate included."""
    answer_TD = _answer("shared", own, x_TD)
    return answer_TD * F.linear(x_TD, own["gate"]).sigmoid() if "gate" in own else answer_TD


def _answer(kind: str, own: Mapping[str, Tensor], x_TD: Tensor) -> Tensor:
    up_TI = F.linear(x_TD, own["up_proj"], own.get("up_bias"))
    if kind == "SwitchTransformersSparseMLP":
        inside_TI = up_TI.relu()
    elif kind == "GptOssMLP":
        gate_TI = F.linear(x_TD, own["gate_proj"], own["gate_bias"]).clamp(max=7.0)
        inside_TI = (up_TI.clamp(-7.0, 7.0) + 1) * gate_TI * (1.702 * gate_TI).sigmoid()
    else:
        inside_TI = F.silu(F.linear(x_TD, own["gate_proj"])) * up_TI
    return F.linear(inside_TI, own["down_proj"], own.get("down_bias"))
