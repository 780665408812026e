"""SwiGLU experts whose weights are chains of small tensors around one tensor that all share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core import kernels
from moe_core.dispatch import Dispatch
from moe_core.experts.base import Experts
from moe_core.experts.swiglu import INIT_STD, SwiGLUExperts
from moe_core.mpo import Factors, reconstruct
from moe_core.mpo_fit import fit_shared
from moe_core.routing import Routing

LENGTH = 5
"""Tensors in a chain, as published."""


class SharedChains(nn.Module):
    """Matrices of equal shape, one per expert, as chains with one central tensor for all.

    Attributes:
        central: (left bond, row, column, right bond); its gradient is the sum over all experts.
        auxiliaries: the other tensors from left to right, each (experts, left bond, row, column,
            right bond).
        update_share: expected share of the central tensor that a training step changes.
    """

    def __init__(
        self, tensors: Sequence[Tensor], factors: Factors, *, update_share: float | None = None
    ) -> None:
        super().__init__()
        self.factors = factors
        self.central = nn.Parameter(tensors[factors.central])
        self.auxiliaries = nn.ParameterList(
            tensor for at, tensor in enumerate(tensors) if at != factors.central
        )
        self.update_share = 1 / self.num_experts if update_share is None else update_share

    @property
    def num_experts(self) -> int:
        return len(self.auxiliaries[0])

    def chain(self, expert: int) -> list[Tensor]:
        """The tensors of one expert: views of its own ones, and ``central`` itself."""
        tensors = [auxiliary[expert] for auxiliary in self.auxiliaries]
        tensors.insert(self.factors.central, self.central)
        return tensors

    def forward(self) -> Tensor:
        """All matrices, (experts, rows, columns)."""
        central: Tensor = self.central
        if self.training and self.update_share < 1:
            central = mask_gradient(central, self.update_share)
        tensors = list(self.auxiliaries)
        tensors.insert(self.factors.central, central)
        return reconstruct(tensors)


class MPOExperts(Experts):
    """``down(silu(gate x) * up x)`` with weights in ``SharedChains``.

    Attributes:
        gate_up: chains of the (2 * inner, width) matrices.
        down: chains of the (width, inner) matrices.
    Args:
        max_bond: widest bond; None truncates nothing, and makes each chain larger than the matrix
            that it stands for. What is saved then is the central tensor of all experts but one.
        update_share: of the central tensors per training step; default one over the number of
            experts, so that the shared tensor moves no faster than an expert's own.
        chains: the two attributes, ready made; random ones by default.
    Source: Gao et al., MPOE, COLING 2022, arXiv:2203.01104.
    Departs: a mask for each element and its default share are our reading; the authors' public code
        freezes whole tensors, which is ``update_share=0``. SwiGLU instead of T5's FFN.
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        num_experts: int,
        *,
        max_bond: int | None = None,
        update_share: float | None = None,
        chains: tuple[SharedChains, SharedChains] | None = None,
    ) -> None:
        super().__init__(dim, inner_dim, num_experts)
        if chains is None:
            plain = SwiGLUExperts(dim, inner_dim, 1)
            gate_up = _copied(plain.gate_up_proj, num_experts, max_bond, update_share)
            chains = gate_up, _copied(plain.down_proj, num_experts, max_bond, update_share)
        self.gate_up, self.down = chains

    @classmethod
    def from_swiglu(
        cls,
        experts: SwiGLUExperts,
        *,
        max_bond: int | None = None,
        update_share: float | None = None,
        sweeps: int = 2,
    ) -> Self:
        """Fit chains to the weights of existing experts; see ``fit_shared`` for what is lost.

        Dtype and device of the weights are kept; the fit is done in fp32 at least.
        """

        def fitted(weights: Tensor) -> SharedChains:
            factors = balanced_factors(weights[0].shape, max_bond)
            wide = weights.detach().to(torch.promote_types(weights.dtype, torch.float32))
            tensors = [part.to(weights.dtype) for part in fit_shared(wide, factors, sweeps=sweeps)]
            return SharedChains(tensors, factors, update_share=update_share)

        chains = fitted(experts.gate_up_proj), fitted(experts.down_proj)
        return cls(experts.dim, experts.inner_dim, experts.num_experts, chains=chains)

    @torch.no_grad()
    def to_swiglu(self) -> SwiGLUExperts:
        """Plain experts that compute the same."""
        plain = SwiGLUExperts(self.dim, self.inner_dim, self.num_experts)
        plain.gate_up_proj = nn.Parameter(self.gate_up())
        plain.down_proj = nn.Parameter(self.down())
        return plain

    def forward(self, x_TD: Tensor, dispatch: Dispatch, routing: Routing) -> Tensor:
        x_SD = kernels.permute(x_TD, dispatch)
        gate_up_SI = kernels.grouped_linear(x_SD, self.gate_up(), dispatch.ends_E)
        gate_SI, up_SI = gate_up_SI.chunk(2, dim=-1)
        return kernels.grouped_linear(F.silu(gate_SI) * up_SI, self.down(), dispatch.ends_E)

    def expert(self, index: int) -> dict[str, Tensor]:
        return {
            f"{name}.{at}": auxiliary[index]
            for name, chains in (("gate_up", self.gate_up), ("down", self.down))
            for at, auxiliary in enumerate(chains.auxiliaries)
        }


def mask_gradient(tensor: Tensor, share: float) -> Tensor:
    """The tensor itself; of its gradient, every element arrives with probability ``share``.

    Optimisers with momentum still move elements whose gradient was masked.
    """
    masked: Tensor = _MaskGradient.apply(tensor, share)
    return masked


def balanced_factors(
    shape: Sequence[int], max_bond: int | None = None, *, length: int = LENGTH
) -> Factors:
    """Factors of both sides as equal as their prime factors allow, the largest in the middle."""
    rows, columns = (_spread(size, length) for size in shape)
    return Factors(rows, columns, max_bond)


def _spread(size: int, length: int) -> tuple[int, ...]:
    factors = [1] * length
    for prime in reversed(_primes(size)):
        factors[factors.index(min(factors))] *= prime
    factors.sort()
    # Ascending to the middle and descending from there: 1 3 5 4 2.
    return tuple(factors[::2] + factors[1::2][::-1])


def _primes(size: int) -> list[int]:
    """Ascending."""
    for divisor in range(2, math.isqrt(size) + 1):
        if size % divisor == 0:
            return [divisor, *_primes(size // divisor)]
    return [size] if size > 1 else []


def _copied(
    weight: Tensor, num_experts: int, max_bond: int | None, update_share: float | None
) -> SharedChains:
    factors = balanced_factors(weight[0].shape, max_bond)
    tensors = fit_shared(weight.detach(), factors, sweeps=0)
    copies = [
        tensor if at == factors.central else tensor.repeat(num_experts, 1, 1, 1, 1)
        for at, tensor in enumerate(tensors)
    ]
    chains = SharedChains(copies, factors, update_share=update_share)
    with torch.no_grad():
        # Experts that start as exact copies would get equal gradients whenever they get equal
        # tokens; a little noise sets them apart.
        first = chains.auxiliaries[0]
        first.add_(torch.randn_like(first) * INIT_STD)
    return chains


class _MaskGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, share: float) -> Tensor:
        ctx.share = share
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad * torch.empty_like(grad).bernoulli_(ctx.share), None
