"""The router's choice in Triton, as an operator that autograd and torch.compile know."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from moe_core.kernels.gpu.device import device_of
from moe_core.kernels.gpu.programs.router import router as _router

_ELEMENTS = 2048
"""Logits that one program holds."""


@torch.library.custom_op("moe_core::route", mutates_args=())
def route(
    logits: Tensor,
    top_k: int,
    sigmoid: bool,
    normalised: bool,
    bias: Tensor | None,
    excluded: Tensor | None,
    override: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gate weights, experts, probabilities, load, and the choice before an override.

    Arguments as in ``route_top_k``; without an override the last is empty.
    """
    tokens, num_experts = logits.shape
    logits = logits.contiguous()
    probs = torch.empty_like(logits, dtype=torch.float32)
    experts = logits.new_empty((tokens, top_k), dtype=torch.int64)
    chosen = torch.empty_like(experts) if override is not None else experts.new_empty(0)
    weights = probs.new_empty((tokens, top_k))
    load = logits.new_zeros(num_experts, dtype=torch.int32)
    across = triton.next_power_of_2(num_experts)
    block = max(1, _ELEMENTS // across)
    if not tokens:
        return weights, experts, probs, load, chosen
    with device_of(logits):
        _router[(triton.cdiv(tokens, block),)](
            logits,
            probs if bias is None else bias.float().contiguous(),
            load if excluded is None else excluded.to(torch.int8),
            experts if override is None else override.long().contiguous(),
            probs,
            chosen,
            experts,
            weights,
            load,
            tokens,
            num_experts,
            SLOTS=top_k,
            SIGMOID=sigmoid,
            NORMALISED=normalised,
            BIAS=bias is not None,
            EXCLUDED=excluded is not None,
            OVERRIDE=override is not None,
            BT=block,
            BE=across,
            BS=triton.next_power_of_2(top_k),
            num_warps=4,
        )
    return weights, experts, probs, load, chosen


@route.register_fake
def _(
    logits: Tensor,
    top_k: int,
    sigmoid: bool,
    normalised: bool,
    bias: Tensor | None,
    excluded: Tensor | None,
    override: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tokens, num_experts = logits.shape
    return (
        logits.new_empty((tokens, top_k), dtype=torch.float32),
        logits.new_empty((tokens, top_k), dtype=torch.int64),
        logits.new_empty(logits.shape, dtype=torch.float32),
        logits.new_empty(num_experts, dtype=torch.int32),
        logits.new_empty((tokens, top_k) if override is not None else 0, dtype=torch.int64),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    weights, experts, probs, load, chosen = output
    ctx.mark_non_differentiable(experts, load, chosen)
    ctx.save_for_backward(weights, probs, experts if inputs[6] is None else chosen)
    ctx.sigmoid, ctx.normalised, ctx.dtype = inputs[2], inputs[3], inputs[0].dtype


def _differentiate(
    ctx: Any, grad_weights: Tensor, _: Tensor, grad_probs: Tensor, *__: Tensor
) -> tuple[Tensor | None, ...]:
    weights, probs, chosen = ctx.saved_tensors
    fills, at = chosen >= 0, chosen.clamp(min=0)
    if ctx.normalised:
        total = probs.gather(1, at).masked_fill(~fills, 0).sum(1, keepdim=True)
        grad_weights = grad_weights - (grad_weights * weights).sum(1, keepdim=True)
        grad_weights = grad_weights / total.clamp(min=torch.finfo(torch.float32).tiny)
    # A token chooses an expert once: what is added is never two terms in either order.
    grad = grad_probs.scatter_add(1, at, grad_weights.masked_fill(~fills, 0))
    if ctx.sigmoid:
        grad = grad * probs * (1 - probs)
    else:
        grad = probs * (grad - (grad * probs).sum(1, keepdim=True))
    return grad.to(ctx.dtype), None, None, None, None, None, None


route.register_autograd(_differentiate, setup_context=_remember)
