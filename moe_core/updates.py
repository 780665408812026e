"""Low-rank updates of linear maps: one for all tokens, or one for each expert of a layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_core import kernels

RANK = 16
"""Of every update."""


class Update(nn.Module):
    """``B A x``: what is added to ``W x``. Its numbers are single, whatever those of W are.

    The entries of A have a root mean square of ``sqrt(in) / rank``. A step of Adam moves every
    number that is tuned by the learning rate; with this A, a step in B moves what the map makes of
    an input by as much as a step in W itself would. So rates mean the same for full copies and for
    updates, and the same search finds them.

    Attributes:
        A: (rank, in), or (experts, rank, in).
        B: (out, rank), or (experts, out, rank), zero at first.
    Source: Hu et al., LoRA, arXiv:2106.09685.
    Departs: in the scale of A, in the place of their alpha.
    """

    def __init__(
        self, in_dim: int, out_dim: int, generator: torch.Generator, *, experts: int | None = None
    ) -> None:
        super().__init__()
        bank = () if experts is None else (experts,)
        drawn = torch.randn(*bank, RANK, in_dim, generator=generator)
        self.A = nn.Parameter(drawn * (math.sqrt(in_dim) / RANK))
        self.B = nn.Parameter(torch.zeros(*bank, out_dim, RANK))

    def forward(self, x: Tensor, ends_E: Tensor | None = None) -> Tensor:
        """What is added, (..., out) fp32, to what the map makes of x, (..., in).

        Args:
            ends_E: where the rows of each expert end, if there are several.
        """
        A = self.A.to(x.dtype)  # so that a gradient needs no wider inputs than there are
        if ends_E is None:
            return functional.linear(functional.linear(x, A).float(), self.B)
        low_SR = kernels.grouped_linear(x, A, ends_E).float()
        return kernels.grouped_linear(low_SR, self.B, ends_E)

    def __call__(self, x: Tensor, ends_E: Tensor | None = None) -> Tensor:
        added: Tensor = super().__call__(x, ends_E)
        return added
