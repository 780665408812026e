"""A Mixture-of-Experts block of transformers, seen and changed like a ``MoELayer``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moe_core.counting import ParameterCounts, size
from moe_core.dispatch import combine, plan
from moe_core.families.family import Family
from moe_core.families.logits import LogitTap
from moe_core.families.wires import Output
from moe_core.interventions import Constant, Force, Intervention, Zero, checked, silenced
from moe_core.recording import Observer, OutputMeans, Recording
from moe_core.routing import EMPTY, Routing
from moe_core.surgery import replaced

_Seen = TypeVar("_Seen", bound=Observer)


class FamilyLayer:
    """What ``MoELayerView`` promises, by hooks on the router and the experts of a block.

    Nothing is hooked outside of a context. Inside, the router runs its own code; what it decided is
    read, changed, and handed on in its own form. Experts are fused, their answers by slot are
    nowhere to be seen: ``recording``, ``averaging`` and ``averaged`` ask the experts once more, a
    row for every slot, which about doubles the cost of the experts.

    A model must not be compiled while it is looked into: compiled code ignores hooks.

    Where a router first chooses groups (DeepSeek, GLM), ``without`` makes a group that is left with
    fewer experts than its score looks at the last choice; slots that then find nobody stay empty.
    Several views of one model compose; but a recording shows neither in its probabilities what
    another view excludes, nor in its contributions what another view averages.
    """

    def __init__(self, family: Family, block: nn.Module, shared: nn.Module | None) -> None:
        self.router = block.get_submodule(family.router)
        self.experts = block.get_submodule("experts")
        self.shared = shared
        self._family = family
        self._linear = self.router.get_submodule(family.linear)
        self._shared_gate = block.get_submodule(family.shared_gate) if family.shared_gate else None
        self._excluded: list[frozenset[int]] = []
        self._interventions: list[Intervention] = []
        self._observers: list[Observer] = []
        self._hooks: list[RemovableHandle] = []
        self._tap: LogitTap | None = None
        self._tapped = ExitStack()
        self._instead_TD: Tensor | None = None

    @property
    def num_experts(self) -> int:
        """Routed experts."""
        return self.router_weight.shape[0]

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return self._family.wire.top_k(self.router)

    @property
    def router_weight(self) -> Tensor:
        """One row per expert, (experts, width)."""
        return self._linear.get_parameter("weight")

    @property
    def router_bias(self) -> Tensor | None:
        """Added to the logits, (experts,); or None."""
        return dict(self._linear.named_parameters(recurse=False)).get("bias")

    @property
    def selection_bias(self) -> Tensor | None:
        """Added for the choice and not for the weights, (experts,), a buffer; or None."""
        return dict(self.router.named_buffers(recurse=False)).get("e_score_correction_bias")

    def expert(self, index: int) -> dict[str, Tensor]:
        """Views of one expert's weights in the form that ``layouts`` describes.

        Raises:
            ValueError: no such expert.
        """
        checked([index], self.num_experts)
        return self._family.layout(self.experts, index)

    def shared_expert(self) -> dict[str, Tensor] | None:
        """Views of the shared expert's weights in the same form, its own gate as ``gate``."""
        if self.shared is None:
            return None
        weights = self._family.shared_layout(self.shared)
        if self._shared_gate is not None:
            weights["gate"] = self._shared_gate.get_parameter("weight")
        return weights

    def parameter_counts(self) -> ParameterCounts:
        """Parameters of router, shared and routed experts."""
        own = tuple(
            sum(tensor.numel() for tensor in self.expert(index).values())
            for index in range(self.num_experts)
        )
        shared = sum(size(part) for part in (self.shared, self._shared_gate) if part is not None)
        return ParameterCounts(size(self.router), shared, size(self.experts) - sum(own), own)

    def recording(self) -> AbstractContextManager[Recording]:
        """Record the routing and how much each expert adds to each token."""
        return self._observed(Recording())

    def averaging(self) -> AbstractContextManager[OutputMeans]:
        """Take the mean answer of each expert, for ``averaged``."""
        return self._observed(OutputMeans())

    @contextmanager
    def without(self, experts: Iterable[int]) -> Iterator[None]:
        """Route around experts: their logits are -inf inside the router.

        Raises:
            ValueError: no such expert, or none would be left.
        """
        excluded = frozenset(checked(experts, self.num_experts))
        if len(excluded.union(*self._excluded)) == self.num_experts:
            raise ValueError(f"all {self.num_experts} experts are excluded; leave at least one")
        with self._active(self._excluded, excluded):
            yield

    def zeroed(self, experts: Iterable[int]) -> AbstractContextManager[None]:
        """Let experts answer 0: their gate weights become 0, the others stay as they are."""
        return self._changed(Zero(checked(experts, self.num_experts)))

    def averaged(self, experts: Iterable[int], mean_ED: Tensor) -> AbstractContextManager[None]:
        """Let experts answer with their mean; routing and gate weights stay as they are."""
        return self._changed(Constant(checked(experts, self.num_experts), mean_ED))

    def forced(
        self, experts_TK: Tensor, weights_TK: Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Send slots to given experts; see ``MoELayer.forced``."""
        return self._changed(Force(experts_TK, weights_TK))

    def replaced(self, weights: Mapping[int, Mapping[str, Tensor]]) -> AbstractContextManager[None]:
        """Give experts other weights, by expert and canonical name; names left out stay.

        Raises:
            ValueError: no such expert or name, or another shape; nothing was changed.
        """
        return replaced(self, weights)

    def without_shared(self) -> AbstractContextManager[None]:
        """Let the shared expert answer 0.

        Raises:
            ValueError: there is none.
        """
        return silenced(self.shared)

    @contextmanager
    def _changed(self, intervention: Intervention) -> Iterator[None]:
        with self._active(self._interventions, intervention):
            yield

    @contextmanager
    def _observed(self, observer: _Seen) -> Iterator[_Seen]:
        with self._active(self._observers, observer):
            yield observer

    @contextmanager
    def _active(self, items: list[Any], item: object) -> Iterator[None]:
        items.append(item)
        if not self._hooks:
            self._hooks = [
                self.router.register_forward_pre_hook(self._tap_logits),
                # Changes of all views come before what any of them sees.
                self.router.register_forward_hook(self._decide, prepend=True, always_call=True),
                self.router.register_forward_hook(self._see),
                self.experts.register_forward_hook(self._answer),
            ]
        try:
            yield
        finally:
            items.remove(item)
            if not (self._excluded or self._interventions or self._observers):
                while self._hooks:
                    self._hooks.pop().remove()
                self._tapped.close()
                self._tap = self._instead_TD = None

    def _tap_logits(self, _router: nn.Module, _inputs: object) -> None:
        self._instead_TD = None  # of an earlier pass whose experts raised
        self._tap = LogitTap(frozenset().union(*self._excluded), self.selection_bias)
        self._tapped.enter_context(self._tap)

    def _decide(self, _router: nn.Module, _inputs: object, output: Output | None) -> Output | None:
        self._tapped.close()
        # Without an output the router raised, and the error is on its way.
        if output is None or not (self._excluded or self._interventions):
            return None
        routing = self._routing(output)
        for intervention in self._interventions:
            routing = intervention.routed(routing)
        return self._family.wire.write(output, routing)

    def _see(self, _router: nn.Module, inputs: tuple[Tensor, ...], output: Output) -> None:
        others = any(isinstance(intervention, Constant) for intervention in self._interventions)
        if not others and not self._observers:
            return
        routing = self._routing(output)
        dispatch = plan(routing.experts_TK, self.num_experts)
        x_TD = inputs[0].reshape(-1, inputs[0].shape[-1])
        with torch.set_grad_enabled(others and torch.is_grad_enabled()):
            y_SD = self._family.wire.answers(self.experts, x_TD, routing, dispatch)
            for intervention in self._interventions:
                y_SD = intervention.ran(y_SD, dispatch)
        for observer in self._observers:
            observer.see(routing, dispatch, y_SD)
        if others:
            self._instead_TD = combine(y_SD, routing.weights_TK, dispatch)

    def _routing(self, output: Output) -> Routing:
        assert self._tap is not None
        assert self._tap.logits is not None, "a router without a linear map"
        weights_TK, experts_TK = self._family.wire.read(output, self.top_k)
        wide = torch.promote_types(self._tap.logits.dtype, torch.float32)
        logits_TE = self._tap.logits.flatten(0, -2).to(wide)
        probs_TE = logits_TE.sigmoid() if self._family.sigmoid else logits_TE.softmax(-1)
        # With fewer experts left than slots, top-k takes excluded ones too, at a weight of 0 (NaN
        # in Phi). A slot of weight 0 runs nothing.
        idle_TK = (logits_TE == -torch.inf).gather(1, experts_TK.clamp(min=0)) | (weights_TK == 0)
        return Routing(
            weights_TK.to(wide).masked_fill(idle_TK, 0),
            experts_TK.masked_fill(idle_TK & (experts_TK >= 0), EMPTY),
            probs_TE,
            probs_TE.new_zeros(()),
        )

    def _answer(self, _experts: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        if self._instead_TD is None:
            return None
        instead_TD, self._instead_TD = self._instead_TD.to(output.dtype), None
        # Llama 4 has a row per expert and token, and adds them up: the first may speak for all.
        rest = output.new_zeros(len(output) - len(instead_TD), output.shape[1])
        return torch.cat([instead_TD, rest])
