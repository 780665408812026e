"""How many numbers a layer is made of, and how many of them a token meets."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from moe_core.experts.base import Experts


class ParameterCounts(NamedTuple):
    """Parameters of a layer.

    Attributes:
        router: of the router.
        shared: of the modules that every token passes beside the routed experts.
        common: what routed experts have in common, such as a shared central tensor.
        own: what belongs to each routed expert alone.
    """

    router: int
    shared: int
    common: int
    own: tuple[int, ...]

    @property
    def total(self) -> int:
        """All of them."""
        return self.router + self.shared + self.common + sum(self.own)

    def active(self, top_k: int) -> int:
        """Those that a token meets at most when it goes to ``top_k`` experts."""
        largest = sorted(self.own, reverse=True)[:top_k]
        return self.router + self.shared + self.common + sum(largest)


def count_parameters(
    router: nn.Module, experts: Experts, shared: nn.Module | None
) -> ParameterCounts:
    """Count the parts of a layer."""
    own = tuple(
        sum(tensor.numel() for tensor in experts.expert(index).values())
        for index in range(experts.num_experts)
    )
    return ParameterCounts(
        router=size(router),
        shared=size(shared) if shared is not None else 0,
        common=size(experts) - sum(own),
        own=own,
    )


def size(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
