"""What sets one family of Mixture-of-Experts blocks apart from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from moe_core.families.layouts import fused, three_maps
from moe_core.families.wires import TopK, Wire


@dataclass(frozen=True)
class Family:
    """The facts of a family; its routed experts are in the submodule ``experts``.

    Attributes:
        router: submodule that chooses.
        linear: submodule of the router that holds a row of ``weight`` per expert, and maybe a
            ``bias``; empty for the router itself.
        sigmoid: scores are a sigmoid of the logits, not a softmax.
        wire: how the router tells the experts.
        layout: an expert in canonical form, by index.
        shared: submodule that every token passes in addition; it may be missing.
        shared_gate: submodule with a ``weight`` that scales the shared expert.
        beside: ``shared`` is a submodule of the decoder layer, not of the block.
        shared_layout: the shared expert in canonical form.
    """

    router: str
    linear: str = ""
    sigmoid: bool = False
    wire: Wire = field(default_factory=TopK)
    layout: Callable[[nn.Module, int], dict[str, Tensor]] = fused
    shared: str | None = None
    shared_gate: str | None = None
    beside: bool = False
    shared_layout: Callable[[nn.Module], dict[str, Tensor]] = three_maps
