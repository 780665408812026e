"""What every kind of experts is: tokens and a dispatch in, one output row per filled slot out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from moe_core.dispatch import Dispatch
from moe_core.kernels import Fused
from moe_core.routing import Routing


class Experts(nn.Module, ABC):
    """All experts of a layer.

    Attributes:
        dim: width of a token.
        inner_dim: width inside an expert.
        num_experts: how many there are.
    """

    def __init__(self, dim: int, inner_dim: int, num_experts: int) -> None:
        super().__init__()
        self.dim = dim
        self.inner_dim = inner_dim
        self.num_experts = num_experts

    @abstractmethod
    def forward(self, x_TD: Tensor, dispatch: Dispatch, routing: Routing) -> Tensor:
        """Run the experts.

        Args:
            x_TD: (tokens, width); ``kernels.permute(x_TD, dispatch)`` gives the rows.
            dispatch: rows by expert, of the slots that ``executed`` names.
            routing: of the layer, for kinds whose computation depends on it.
        Returns:
            (rows, width), in the order of the dispatch, not multiplied by the gate weights.
        """

    def __call__(self, x_TD: Tensor, dispatch: Dispatch, routing: Routing) -> Tensor:
        y_SD: Tensor = super().__call__(x_TD, dispatch, routing)
        return y_SD

    def executed(self, routing: Routing) -> Tensor:
        """Which expert runs in each slot, (tokens, slots) int64, negative for none."""
        return routing.experts_TK

    def fused(self, x_TD: Tensor, routing: Routing, *, audit: bool) -> Fused | None:
        """All of the layer but its router in one operation; None for kinds that have none.

        Args:
            audit: whether the norm of each slot's addend is wanted.
        """
        return None

    @abstractmethod
    def expert(self, index: int) -> dict[str, Tensor]:
        """What belongs to one expert alone: views of its parameters, by name.

        Writing into a view, in place and without gradient, changes this expert and no other.
        """
