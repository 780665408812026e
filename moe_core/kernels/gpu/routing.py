"""The router's choice in Triton."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from moe_core.kernels.gpu.programs.router import router as _router

_ELEMENTS = 2048
"""Logits that one program holds."""


def launch(
    logits_TE: Tensor,
    top_k: int,
    sigmoid: bool,
    normalised: bool,
    bias_E: Tensor | None,
    excluded_E: Tensor | None,
    override_TK: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities, experts, gate weights and load; arguments as in ``route_top_k``."""
    tokens, num_experts = logits_TE.shape
    logits_TE = logits_TE.contiguous()
    probs_TE = torch.empty_like(logits_TE, dtype=torch.float32)
    experts_TK = logits_TE.new_empty((tokens, top_k), dtype=torch.int64)
    weights_TK = probs_TE.new_empty((tokens, top_k))
    load_E = logits_TE.new_zeros(num_experts, dtype=torch.int32)
    across = triton.next_power_of_2(num_experts)
    block = max(1, _ELEMENTS // across)
    if tokens:
        _router[(triton.cdiv(tokens, block),)](
            logits_TE,
            probs_TE if bias_E is None else bias_E.float().contiguous(),
            load_E if excluded_E is None else excluded_E.to(torch.int8),
            experts_TK if override_TK is None else override_TK.contiguous(),
            probs_TE,
            experts_TK,
            weights_TK,
            load_E,
            tokens,
            num_experts,
            SLOTS=top_k,
            SIGMOID=sigmoid,
            NORMALISED=normalised,
            BIAS=bias_E is not None,
            EXCLUDED=excluded_E is not None,
            OVERRIDE=override_TK is not None,
            BT=block,
            BE=across,
            BS=triton.next_power_of_2(top_k),
            num_warps=4,
        )
    return probs_TE, experts_TK, weights_TK, load_E
