"""The fused operation in plain torch: by grouped products, and by a loop that is the oracle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_core.dispatch import permute, plan
from moe_core.kernels.activation import swiglu
from moe_core.kernels.grouped import grouped_linear
from moe_core.kernels.told import Fused, Inputs


def by_grouped_products(inputs: Inputs) -> Fused:
    """Rows sorted by expert, then one product per expert."""
    x_TD, gate_up_proj, down_proj, experts_TK, weights_TK, constants, *_ = inputs
    num_experts = len(gate_up_proj)
    runs_TK = (experts_TK >= 0) & (experts_TK < num_experts)
    if constants is not None:
        runs_TK &= ~constants.answered(experts_TK)
    dispatch = plan(experts_TK.masked_fill(~runs_TK, -1), num_experts)
    pre_SI = grouped_linear(permute(x_TD, dispatch), gate_up_proj, dispatch.ends_E)
    y_SD = grouped_linear(swiglu(pre_SI), down_proj, dispatch.ends_E)
    y = y_SD.new_zeros((experts_TK.numel(), x_TD.shape[1]), dtype=weights_TK.dtype)
    y = y.index_copy(0, dispatch.slots_S, y_SD.to(weights_TK.dtype))
    return _told(inputs, y.view(*experts_TK.shape, x_TD.shape[1]), runs_TK)


def by_loop(inputs: Inputs) -> Fused:
    """Expert by expert, in fp32 at least."""
    x_TD, gate_up_proj, down_proj, experts_TK, weights_TK, constants, *_ = inputs
    wide = weights_TK.dtype
    runs_TK = torch.zeros_like(experts_TK, dtype=torch.bool)
    y_TKD = x_TD.new_zeros((*experts_TK.shape, x_TD.shape[1]), dtype=wide)
    for expert, (gate_up, down) in enumerate(zip(gate_up_proj, down_proj, strict=True)):
        if constants is not None and constants.chosen_E[expert]:
            continue
        mine_TK = experts_TK == expert
        runs_TK |= mine_TK
        token, slot = mine_TK.nonzero(as_tuple=True)
        gate, up = F.linear(x_TD[token].to(wide), gate_up.to(wide)).chunk(2, dim=-1)
        y_TKD = y_TKD.index_put((token, slot), F.linear(F.silu(gate) * up, down.to(wide)))
    return _told(inputs, y_TKD, runs_TK)


def _told(inputs: Inputs, y_TKD: Tensor, runs_TK: Tensor) -> Fused:
    """From answers, zero where none ran, to what was asked for."""
    constants, direction_D, audit = inputs.constants, inputs.direction_D, inputs.audit
    if constants is not None:
        fixed_TK = constants.answered(inputs.experts_TK)
        chosen_TK = inputs.experts_TK.where(fixed_TK, 0)
        answers = constants.answers_ED.detach()[chosen_TK].to(y_TKD)
        y_TKD, runs_TK = torch.where(fixed_TK.unsqueeze(-1), answers, y_TKD), runs_TK | fixed_TK
    # Not even a weight of NaN adds anything where no expert ran.
    addends = y_TKD * inputs.weights_TK.masked_fill(~runs_TK, 0).unsqueeze(-1)
    out_TD = addends.sum(1)
    with torch.no_grad():
        return Fused(
            out_TD,
            contribution_TK=torch.linalg.vector_norm(addends, dim=-1) if audit else None,
            alignment_TK=(addends * out_TD.unsqueeze(1)).sum(-1) if audit else None,
            projection_TK=None if direction_D is None else y_TKD @ direction_D.to(y_TKD),
        )
