"""SwiGLU experts in the weight layout of transformers 5: a checkpoint loads without a copy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe_core import kernels
from moe_core.dispatch import Dispatch
from moe_core.experts.base import Experts
from moe_core.ffn import halves
from moe_core.kernels import Fused
from moe_core.routing import Routing

INIT_STD = 0.02


class SwiGLUExperts(Experts):
    """``down(silu(gate x) * up x)`` for each expert.

    Attributes:
        gate_up_proj: (experts, 2 * inner, width); rows of the gate, then rows of up.
        down_proj: (experts, width, inner).
    """

    def __init__(self, dim: int, inner_dim: int, num_experts: int) -> None:
        super().__init__(dim, inner_dim, num_experts)
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * inner_dim, dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, dim, inner_dim))
        nn.init.normal_(self.gate_up_proj, std=INIT_STD)
        nn.init.normal_(self.down_proj, std=INIT_STD)

    def forward(self, x_TD: Tensor, dispatch: Dispatch, routing: Routing) -> Tensor:
        x_SD = kernels.permute(x_TD, dispatch)
        pre_SI = kernels.grouped_linear(x_SD, self.gate_up_proj, dispatch.ends_E)
        return kernels.grouped_linear(kernels.swiglu(pre_SI), self.down_proj, dispatch.ends_E)

    def fused(self, x_TD: Tensor, routing: Routing, *, audit: bool) -> Fused | None:
        # Elsewhere there is nothing to gain, and rows can be looked at.
        if kernels.triton_refuses(self.gate_up_proj, self.num_experts):
            return None
        return kernels.fused_experts(
            x_TD,
            self.gate_up_proj,
            self.down_proj,
            routing.experts_TK,
            routing.weights_TK,
            audit=audit,
        )

    def expert(self, index: int) -> dict[str, Tensor]:
        return halves(self.gate_up_proj[index], self.down_proj[index])
