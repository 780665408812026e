"""One look into all Mixture-of-Experts layers of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple, Protocol, Self, TypeVar

from torch import Tensor, nn

from moe_core.counting import ParameterCounts
from moe_core.families import FAMILIES, known_layers, unknown_blocks
from moe_core.layer import MoELayer
from moe_core.recording import OutputMeans, Recording

_Entered = TypeVar("_Entered")


class ExpertId(NamedTuple):
    """One expert of a model.

    Attributes:
        layer: index among the Mixture-of-Experts layers, not among all layers.
        expert: index in its layer.
    """

    layer: int
    expert: int


class MoELayerView(Protocol):
    """What an audit may ask of a layer and do to it; ``MoELayer`` says what each of these means."""

    @property
    def num_experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def router_weight(self) -> Tensor | None: ...
    @property
    def router_bias(self) -> Tensor | None: ...
    @property
    def selection_bias(self) -> Tensor | None: ...
    def expert(self, index: int) -> dict[str, Tensor]: ...
    def shared_expert(self) -> dict[str, Tensor] | None: ...
    def parameter_counts(self) -> ParameterCounts: ...
    def recording(self) -> AbstractContextManager[Recording]: ...
    def averaging(self) -> AbstractContextManager[OutputMeans]: ...
    def without(self, experts: Iterable[int]) -> AbstractContextManager[None]: ...
    def zeroed(self, experts: Iterable[int]) -> AbstractContextManager[None]: ...
    def averaged(self, experts: Iterable[int], mean_ED: Tensor) -> AbstractContextManager[None]: ...
    def forced(
        self, experts_TK: Tensor, weights_TK: Tensor | None = None
    ) -> AbstractContextManager[None]: ...
    def replaced(
        self, weights: Mapping[int, Mapping[str, Tensor]]
    ) -> AbstractContextManager[None]: ...
    def without_shared(self) -> AbstractContextManager[None]: ...


class ExpertView:
    """All Mixture-of-Experts layers of a model, in the order in which the model holds them.

    An ``ExpertId`` names a routed expert. Shared experts are no matter of routing: they go by
    layer, with ``shared`` and ``without_shared``.

    What takes experts takes them from several layers at once. Context managers nest in any order
    and leave the model as it was. A layer or expert that does not exist is a ``ValueError``.

    Attributes:
        names: path of each layer in the model.
        layers: the layers, in the same order.
    """

    def __init__(self, layers: Mapping[str, MoELayerView]) -> None:
        self.names = tuple(layers)
        self.layers = tuple(layers.values())

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Look into a model that is made of ``MoELayer``, or of blocks that ``FAMILIES`` knows.

        Raises:
            ValueError: it has none, or has other Mixture-of-Experts blocks too, or one of
                transformers that is compiled, quantised or not built as its name says.
        """
        own = {name: part for name, part in model.named_modules() if isinstance(part, MoELayer)}
        layers: dict[str, MoELayerView] = {**own, **dict(known_layers(model))}
        if unknown := unknown_blocks(model, known=layers):
            raise ValueError(
                f"{type(model).__name__} holds experts that cannot be looked into: "
                f"{', '.join(unknown)}; known are MoELayer and {', '.join(FAMILIES)}"
            )
        if not layers:
            raise ValueError(
                f"{type(model).__name__} holds no MoELayer and none of {', '.join(FAMILIES)}; "
                "nothing to look into"
            )
        return cls(layers)

    def layer(self, index: int) -> MoELayerView:
        """One layer.

        Raises:
            ValueError: there is none of this index.
        """
        if not 0 <= index < len(self.layers):
            raise ValueError(f"layer {index} of {len(self.layers)}: no such index")
        return self.layers[index]

    def experts(self) -> Iterator[ExpertId]:
        """Every routed expert, layer by layer."""
        for index, layer in enumerate(self.layers):
            for expert in range(layer.num_experts):
                yield ExpertId(index, expert)

    def shared(self) -> Iterator[int]:
        """The layers that have a shared expert."""
        for index, layer in enumerate(self.layers):
            if layer.shared_expert() is not None:
                yield index

    def expert(self, expert: ExpertId) -> dict[str, Tensor]:
        """What belongs to one expert alone: views of its parameters, by name."""
        return self.layer(expert.layer).expert(expert.expert)

    def recording(self) -> AbstractContextManager[tuple[Recording, ...]]:
        """Record all layers; one recording each."""
        return _all([layer.recording() for layer in self.layers])

    def averaging(self) -> AbstractContextManager[tuple[OutputMeans, ...]]:
        """Take the mean answers in all layers, for ``averaged``."""
        return _all([layer.averaging() for layer in self.layers])

    def without(self, experts: Iterable[ExpertId]) -> AbstractContextManager[object]:
        """Route around experts, as if they had been cut out of the model."""
        return _all([self.layer(at).without(own) for at, own in _by_layer(experts).items()])

    def only(self, experts: Iterable[ExpertId]) -> AbstractContextManager[object]:
        """Route around all other experts of the layers that are named; other layers stay."""
        return _all(
            [
                self.layer(at).without(set(range(self.layer(at).num_experts)) - own)
                for at, own in _by_layer(experts).items()
            ]
        )

    def zeroed(self, experts: Iterable[ExpertId]) -> AbstractContextManager[object]:
        """Let experts answer 0; routing and gate weights stay as they are."""
        return _all([self.layer(at).zeroed(own) for at, own in _by_layer(experts).items()])

    def averaged(
        self, experts: Iterable[ExpertId], means: Sequence[OutputMeans]
    ) -> AbstractContextManager[object]:
        """Let experts answer with their mean, as ``averaging`` took it."""
        return _all(
            [
                self.layer(at).averaged(own, means[at].mean_ED)
                for at, own in _by_layer(experts).items()
            ]
        )

    def forced(self, experts_TK: Mapping[int, Tensor]) -> AbstractContextManager[object]:
        """Send slots to given experts, by layer; each broadcasts to (tokens, slots), -1 keeps."""
        return _all([self.layer(at).forced(forced) for at, forced in experts_TK.items()])

    def replaced(
        self, weights: Mapping[ExpertId, Mapping[str, Tensor]]
    ) -> AbstractContextManager[object]:
        """Give experts other weights, by expert and name; names left out stay."""
        by_layer: dict[int, dict[int, Mapping[str, Tensor]]] = defaultdict(dict)
        for expert, tensors in weights.items():
            by_layer[expert.layer][expert.expert] = tensors
        return _all([self.layer(at).replaced(own) for at, own in by_layer.items()])

    def without_shared(self, layers: Iterable[int]) -> AbstractContextManager[object]:
        """Let the shared experts of these layers answer 0.

        Raises:
            ValueError: there is no such layer, or it has none.
        """
        return _all([self.layer(at).without_shared() for at in sorted(set(layers))])


def _by_layer(experts: Iterable[ExpertId]) -> dict[int, set[int]]:
    by_layer: dict[int, set[int]] = defaultdict(set)
    for layer, expert in experts:
        by_layer[layer].add(expert)
    return by_layer


@contextmanager
def _all(contexts: Sequence[AbstractContextManager[_Entered]]) -> Iterator[tuple[_Entered, ...]]:
    with ExitStack() as stack:
        yield tuple([stack.enter_context(context) for context in contexts])
