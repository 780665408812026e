"""A Mixture-of-Experts layer: router, dispatch, experts, shared experts, and hooks for audits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from moe_core import kernels
from moe_core.counting import ParameterCounts, count_parameters
from moe_core.dispatch import plan
from moe_core.experts.base import Experts
from moe_core.ffn import SwiGLU
from moe_core.interventions import Constant, Force, Intervention, Zero, checked, silenced
from moe_core.recording import Observer, OutputMeans, Recording
from moe_core.routers.base import LinearRouter, Router
from moe_core.routing import Routing
from moe_core.surgery import replaced

_Seen = TypeVar("_Seen", bound=Observer)


class MoEOutput(NamedTuple):
    """What a layer returns.

    Attributes:
        hidden: of the shape and dtype of the input.
        routing: of its tokens, flattened; add ``routing.aux_loss`` to the training loss.
    """

    hidden: Tensor
    routing: Routing


class MoELayer(nn.Module):
    """``sum_k weight_k * expert_k(x) + shared(x)``.

    Everything below ``forward`` is for audits: context managers that nest in any order, cost
    nothing outside, and leave the layer as it was, whatever happens inside.

    Attributes:
        router: chooses the experts of each token.
        experts: all routed experts.
        shared: what every token passes in addition, (tokens, width) to (tokens, width); or None.
    """

    def __init__(self, router: Router, experts: Experts, shared: nn.Module | None = None) -> None:
        super().__init__()
        if router.num_experts != experts.num_experts:
            raise ValueError(
                f"the router chooses among {router.num_experts} experts, there are "
                f"{experts.num_experts}; make both alike"
            )
        self.router = router
        self.experts = experts
        self.shared = shared
        self._interventions: list[Intervention] = []
        self._observers: list[Observer] = []

    def forward(self, x: Tensor, ids: Tensor | None = None) -> MoEOutput:
        """Run the layer.

        Args:
            x: (..., width).
            ids: (...) int64 vocabulary indices, for routers that hash them.
        """
        x_TD = x.reshape(-1, x.shape[-1])
        routing = self.router(x_TD, None if ids is None else ids.reshape(-1))
        for intervention in self._interventions:
            routing = intervention.routed(routing)
        y_TD = self._fused(x_TD, routing)
        if y_TD is None:
            y_TD = self._by_rows(x_TD, routing)
        if self.shared is not None:
            y_TD = y_TD + self.shared(x_TD)
        return MoEOutput(y_TD.view(*x.shape[:-1], y_TD.shape[-1]), routing)

    def _fused(self, x_TD: Tensor, routing: Routing) -> Tensor | None:
        """The experts in one operation; None if someone needs the rows, or there is none such."""
        if any(observer.needs_rows for observer in self._observers) or any(
            intervention.changes_rows for intervention in self._interventions
        ):
            return None
        fused = self.experts.fused(x_TD, routing, audit=bool(self._observers))
        if fused is None:
            return None
        if fused.contribution_TK is not None:
            for observer in self._observers:
                observer.see_fused(routing, fused.contribution_TK)
        return fused.out_TD

    def _by_rows(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """The experts row by row, so that each answer can be seen and changed."""
        dispatch = plan(self.experts.executed(routing), self.num_experts)
        y_SD = self.experts(x_TD, dispatch, routing)
        for intervention in self._interventions:
            y_SD = intervention.ran(y_SD, dispatch)
        for observer in self._observers:
            observer.see(routing, dispatch, y_SD)
        return kernels.combine(y_SD, routing.weights_TK, dispatch).to(x_TD.dtype)

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> MoEOutput:
        output: MoEOutput = super().__call__(x, ids)
        return output

    @property
    def num_experts(self) -> int:
        """Routed experts."""
        return self.experts.num_experts

    @property
    def top_k(self) -> int:
        """Experts per token, as the router understands it."""
        return self.router.top_k

    @property
    def router_weight(self) -> Tensor | None:
        """One row per expert, (experts, width); None for a router without such rows."""
        if not isinstance(self.router, LinearRouter):
            return None
        return self.router.weight[: self.num_experts]

    @property
    def router_bias(self) -> Tensor | None:
        """What the router adds to the logits, (experts,); None where it adds nothing."""
        return self.router.logit_bias

    @property
    def selection_bias(self) -> Tensor | None:
        """What counts for the choice and not for the weights, (experts,); None without it."""
        return self.router.selection_bias

    def expert(self, index: int) -> dict[str, Tensor]:
        """What belongs to one expert alone: views of its parameters, by name.

        Raises:
            ValueError: no such expert.
        """
        checked([index], self.num_experts)
        return self.experts.expert(index)

    def shared_expert(self) -> dict[str, Tensor] | None:
        """Views of the shared expert's parameters, by name; None without one."""
        if isinstance(self.shared, SwiGLU):
            return self.shared.expert()
        return None if self.shared is None else dict(self.shared.named_parameters())

    def parameter_counts(self) -> ParameterCounts:
        """Parameters of router, shared and routed experts."""
        return count_parameters(self.router, self.experts, self.shared)

    def recording(self) -> AbstractContextManager[Recording]:
        """Record the routing and how much each expert adds to each token."""
        return self._observed(Recording())

    def averaging(self) -> AbstractContextManager[OutputMeans]:
        """Take the mean answer of each expert, for ``averaged``."""
        return self._observed(OutputMeans())

    def without(self, experts: Iterable[int]) -> AbstractContextManager[None]:
        """Route around experts, as if they had been cut out of the model.

        Raises:
            ValueError: no such expert, or none would be left.
        """
        return self.router.excluding(experts)

    def zeroed(self, experts: Iterable[int]) -> AbstractContextManager[None]:
        """Let experts answer 0; routing and gate weights stay as they are."""
        return self._changed(Zero(checked(experts, self.num_experts)))

    def averaged(self, experts: Iterable[int], mean_ED: Tensor) -> AbstractContextManager[None]:
        """Let experts answer with their mean; routing and gate weights stay as they are.

        Args:
            mean_ED: (experts of the layer, width), as ``averaging`` measures it.
        """
        return self._changed(Constant(checked(experts, self.num_experts), mean_ED))

    def forced(
        self, experts_TK: Tensor, weights_TK: Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Send slots to given experts.

        Args:
            experts_TK: broadcasts to (tokens, slots); -1 leaves a slot to the router.
            weights_TK: of the forced slots; None keeps the slot's weight.
        """
        return self._changed(Force(experts_TK, weights_TK))

    def replaced(self, weights: Mapping[int, Mapping[str, Tensor]]) -> AbstractContextManager[None]:
        """Give experts other weights.

        Args:
            weights: by expert, then by name as in ``experts.expert(index)``; names left out stay.
        Raises:
            ValueError: no such expert or name, or another shape; nothing was changed.
        """
        return replaced(self.experts, weights)

    def without_shared(self) -> AbstractContextManager[None]:
        """Let the shared expert answer 0.

        Raises:
            ValueError: there is none.
        """
        return silenced(self.shared)

    @contextmanager
    def _changed(self, intervention: Intervention) -> Iterator[None]:
        self._interventions.append(intervention)
        try:
            yield
        finally:
            self._interventions.remove(intervention)

    @contextmanager
    def _observed(self, observer: _Seen) -> Iterator[_Seen]:
        self._observers.append(observer)
        try:
            yield observer
        finally:
            self._observers.remove(observer)
