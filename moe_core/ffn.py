"""The dense SwiGLU network: what a Mixture-of-Experts layer replaces, and its shared expert."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core import kernels

INIT_STD = 0.02


def halves(gate_up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """``gate_proj``, ``up_proj`` (inner, width) and ``down_proj`` (width, inner), as views.

    Slices and not ``chunk``: torch forbids writing into views that came in pairs.

    Args:
        gate_up: (2 * inner, width).
        down: (width, inner).
    """
    inner = gate_up.shape[0] // 2
    return {"gate_proj": gate_up[:inner], "up_proj": gate_up[inner:], "down_proj": down}


class SwiGLU(nn.Module):
    """``down(silu(gate x) * up x)``, in the layout of one expert of ``SwiGLUExperts``.

    Args:
        gated: multiply the answer by ``sigmoid(w . x)``, as Qwen2-MoE does with its shared expert.
    Attributes:
        gate_up_proj: (2 * inner, width); rows of the gate, then rows of up.
        down_proj: (width, inner).
        gate: (1, width), the w of ``gated``; or None.
    """

    def __init__(self, dim: int, inner_dim: int, *, gated: bool = False) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(2 * inner_dim, dim))
        self.down_proj = nn.Parameter(torch.empty(dim, inner_dim))
        self.gate = nn.Parameter(torch.zeros(1, dim)) if gated else None
        nn.init.normal_(self.gate_up_proj, std=INIT_STD)
        nn.init.normal_(self.down_proj, std=INIT_STD)

    def expert(self) -> dict[str, Tensor]:
        """Views of the parameters, named as those of an expert; ``gate`` where it has one."""
        own = {} if self.gate is None else {"gate": self.gate}
        return halves(self.gate_up_proj, self.down_proj) | own

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        y = F.linear(kernels.swiglu(F.linear(x, self.gate_up_proj)), self.down_proj)
        return y if self.gate is None else F.linear(x, self.gate).sigmoid() * y

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = super().__call__(x)
        return y
