"""Experts of which only the main ones run; the others are stood in for by a scaling of states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core import kernels
from moe_core.dispatch import Dispatch
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.routing import EMPTY, Routing

_THETAS = ("theta_gate", "theta_up", "theta_inner")


class CompressedExperts(SwiGLUExperts):
    """SwiGLU experts, each with a compressed stand-in of ``2 * width + inner`` numbers.

    Of a token's slots, the main ones run their experts. The others are auxiliary: their experts do
    not run, but the mean of their stand-ins, weighted by their gates, scales the states inside the
    main experts: ``down(silu(gate(x * theta_gate)) * up(x * theta_up) * theta_inner)``. The gates
    of the main experts are not renormalised. Stand-ins of ones change nothing.

    A slot is auxiliary if it is not among the ``main_slots`` of highest gate, or if its expert is
    demoted: the way to silence a suspect expert and keep what a few numbers can hold of its work. A
    token whose experts are all auxiliary gets nothing from the routed experts.

    Args:
        main_slots: how many slots of a token run; None for all whose expert is not demoted.
        demoted: experts that never run.
    Attributes:
        theta_gate, theta_up: (experts, width).
        theta_inner: (experts, inner).
    Source: He et al., arXiv:2503.00634.
    Departs: demotion of experts by name is ours.
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        num_experts: int,
        *,
        main_slots: int | None = None,
        demoted: Iterable[int] = (),
    ) -> None:
        super().__init__(dim, inner_dim, num_experts)
        self.main_slots = main_slots
        self.demoted = frozenset(demoted)
        if not self.demoted <= frozenset(range(num_experts)):
            raise ValueError(f"experts {sorted(self.demoted)} of {num_experts}: no such index")
        self.theta_gate = nn.Parameter(torch.ones(num_experts, dim))
        self.theta_up = nn.Parameter(torch.ones(num_experts, dim))
        self.theta_inner = nn.Parameter(torch.ones(num_experts, inner_dim))

    @classmethod
    def of(
        cls, experts: SwiGLUExperts, *, main_slots: int | None = None, demoted: Iterable[int] = ()
    ) -> Self:
        """Add stand-ins to existing experts, whose parameters are shared, not copied."""
        with torch.device("meta"):
            compressed = cls(
                experts.dim,
                experts.inner_dim,
                experts.num_experts,
                main_slots=main_slots,
                demoted=demoted,
            )
        weight = experts.gate_up_proj
        for name in _THETAS:
            ones = torch.ones_like(getattr(compressed, name), device=weight.device)
            setattr(compressed, name, nn.Parameter(ones.to(weight.dtype)))
        compressed.gate_up_proj = experts.gate_up_proj
        compressed.down_proj = experts.down_proj
        return compressed

    def executed(self, routing: Routing) -> Tensor:
        return routing.experts_TK.masked_fill(self._auxiliary(routing), EMPTY)

    def forward(self, x_TD: Tensor, dispatch: Dispatch, routing: Routing) -> Tensor:
        shares_TE = self._auxiliary_shares(routing)
        gate_SD, up_SD, inner_SI = (
            _mean_theta(theta, shares_TE)[dispatch.tokens_S].to(x_TD.dtype)
            for theta in (self.theta_gate, self.theta_up, self.theta_inner)
        )
        x_SD = kernels.permute(x_TD, dispatch)
        gate_EID, up_EID = self.gate_up_proj.chunk(2, dim=1)
        gate_SI = kernels.grouped_linear(x_SD * gate_SD, gate_EID, dispatch.ends_E)
        up_SI = kernels.grouped_linear(x_SD * up_SD, up_EID, dispatch.ends_E)
        inside_SI = F.silu(gate_SI) * up_SI * inner_SI
        return kernels.grouped_linear(inside_SI, self.down_proj, dispatch.ends_E)

    def fused(self, x_TD: Tensor, routing: Routing, *, audit: bool) -> None:
        # What is between the products differs from SwiGLU.
        return None

    def expert(self, index: int) -> dict[str, Tensor]:
        thetas = {name: getattr(self, name)[index] for name in _THETAS}
        return super().expert(index) | thetas

    def _auxiliary(self, routing: Routing) -> Tensor:
        experts_TK, weights_TK = routing.experts_TK, routing.weights_TK
        demoted = torch.tensor(sorted(self.demoted), dtype=torch.long, device=experts_TK.device)
        auxiliary_TK = torch.isin(experts_TK, demoted)
        if self.main_slots is not None:
            order_TK = weights_TK.detach().argsort(dim=1, descending=True, stable=True)
            auxiliary_TK = auxiliary_TK | (order_TK.argsort(dim=1) >= self.main_slots)
        return auxiliary_TK & (experts_TK >= 0)

    def _auxiliary_shares(self, routing: Routing) -> Tensor:
        """Share of each expert in the gates of a token's auxiliary slots, (tokens, experts)."""
        auxiliary_TK = self._auxiliary(routing)
        gates_TK = routing.weights_TK.masked_fill(~auxiliary_TK, 0)
        tiny = torch.finfo(gates_TK.dtype).tiny
        shares_TK = gates_TK / gates_TK.sum(1, keepdim=True).clamp(min=tiny)
        shares_TE = torch.zeros_like(routing.probs_TE)
        return shares_TE.scatter_add(1, routing.experts_TK.clamp(min=0), shares_TK)


def train_stand_ins_only(model: nn.Module) -> list[nn.Parameter]:
    """Freeze all parameters of a model but its stand-ins, and return these.

    Raises:
        ValueError: the model has no compressed experts.
    """
    model.requires_grad_(False)
    thetas = [
        getattr(part, name).requires_grad_(True)
        for part in model.modules()
        if isinstance(part, CompressedExperts)
        for name in _THETAS
    ]
    if not thetas:
        raise ValueError(f"{type(model).__name__} has no CompressedExperts; nothing to train")
    return thetas


def active_parameters(dim: int, inner_dim: int, *, main: int, auxiliary: int) -> int:
    """Numbers that one token uses: whole main experts, stand-ins of auxiliary ones."""
    return main * 3 * dim * inner_dim + auxiliary * (2 * dim + inner_dim)


def _mean_theta(theta_EN: Tensor, shares_TE: Tensor) -> Tensor:
    """Weighted mean of stand-ins, (tokens, n); ones for a token without auxiliary slots."""
    return 1 + shares_TE @ (theta_EN.to(shares_TE.dtype) - 1)
