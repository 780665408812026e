"""What an audit may change between a layer's router and its output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moe_core.dispatch import Dispatch
from moe_core.routing import EMPTY, Routing

KEEP = -1
"""In a forced routing: leave this slot as the router filled it."""


class Intervention:
    """Changes nothing; subclasses override what they change.

    Attributes:
        changes_rows: whether ``ran`` does anything.
    """

    changes_rows = False

    def routed(self, routing: Routing) -> Routing:
        """The routing that is to be used instead."""
        return routing

    def ran(self, y_SD: Tensor, dispatch: Dispatch) -> Tensor:
        """The rows that are to be combined instead, (rows, width)."""
        return y_SD


class Zero(Intervention):
    """Slots of these experts run nothing; the other slots keep their weights."""

    def __init__(self, experts: Iterable[int]) -> None:
        self.experts = torch.tensor(sorted(experts), dtype=torch.long)

    def routed(self, routing: Routing) -> Routing:
        hit_TK = torch.isin(routing.experts_TK, self.experts.to(routing.experts_TK.device))
        return routing._replace(
            experts_TK=routing.experts_TK.masked_fill(hit_TK, EMPTY),
            weights_TK=routing.weights_TK.masked_fill(hit_TK, 0),
        )


class Constant(Intervention):
    """Each of these experts answers with one vector, whatever the token.

    Args:
        experts: whose answers change.
        answer_ED: (experts of the layer, width); only the rows of ``experts`` are read.
    """

    changes_rows = True

    def __init__(self, experts: Iterable[int], answer_ED: Tensor) -> None:
        self.experts = sorted(experts)
        self.answer_ED = answer_ED

    def ran(self, y_SD: Tensor, dispatch: Dispatch) -> Tensor:
        ends, y_SD = [0, *dispatch.ends_E.tolist()], y_SD.clone()
        for expert in self.experts:
            y_SD[ends[expert] : ends[expert + 1]] = self.answer_ED[expert].to(y_SD)
        return y_SD


class Force(Intervention):
    """Slots go to the given experts, whatever the router chose.

    Args:
        experts_TK: of a shape that broadcasts to (tokens, slots); ``KEEP`` leaves a slot.
        weights_TK: of the forced slots; None keeps the weight that the router gave the slot, which
            is 0 for a slot that it left empty.
    """

    def __init__(self, experts_TK: Tensor, weights_TK: Tensor | None) -> None:
        self.experts_TK = experts_TK
        self.weights_TK = weights_TK

    def routed(self, routing: Routing) -> Routing:
        wanted_TK = self.experts_TK.to(routing.experts_TK).expand_as(routing.experts_TK)
        forced_TK = wanted_TK != KEEP
        weights_TK = routing.weights_TK
        if self.weights_TK is not None:
            weights_TK = torch.where(forced_TK, self.weights_TK.to(weights_TK), weights_TK)
        return routing._replace(
            experts_TK=torch.where(forced_TK, wanted_TK, routing.experts_TK), weights_TK=weights_TK
        )


def checked(experts: Iterable[int], num_experts: int) -> list[int]:
    """The indices in order, each once.

    Raises:
        ValueError: one is no expert.
    """
    indices = sorted(set(experts))
    if indices and not 0 <= indices[0] <= indices[-1] < num_experts:
        raise ValueError(f"experts {indices} of {num_experts}: no such index")
    return indices


@contextmanager
def silenced(shared: nn.Module | None) -> Iterator[None]:
    """Let a shared expert answer 0.

    Raises:
        ValueError: there is none.
    """
    if shared is None:
        raise ValueError("the layer has no shared expert")
    hook = shared.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    try:
        yield
    finally:
        hook.remove()
