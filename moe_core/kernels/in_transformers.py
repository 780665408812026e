"""Models of transformers on the fused operation, by one call and without a change to the model.

transformers asks a table by name how experts are to be computed; a name is added to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from moe_core.kernels.backends import Backend
from moe_core.kernels.fused import fused_experts

NAME = "moe_core"
"""Of this way to compute experts; ``NAME:backend`` where a backend was asked for."""

_LOG = logging.getLogger(__name__)
_OTHERWISE = "grouped_mm"
"""The way of transformers for experts that are built otherwise."""

_WATCHED = "moe_core_seen"


@dataclass
class Seen:
    """One pass through the experts of a layer, without gradient.

    Attributes:
        experts_TK: (tokens, slots) int64, as the model's router chose.
        weights_TK: gate weights, (tokens, slots).
        contribution_TK: norm of each slot's addend, (tokens, slots) fp32.
        alignment_TK: product of each slot's addend with the layer's output, (tokens, slots) fp32.
        attribution_TK: gate weight times its gradient, (tokens, slots); None before a backward.
    """

    experts_TK: Tensor
    weights_TK: Tensor
    contribution_TK: Tensor | None
    alignment_TK: Tensor | None
    attribution_TK: Tensor | None = None


def use_fused_experts(model: nn.Module, *, backend: Backend | None = None) -> None:
    """Compute the experts of a model of transformers with ``fused_experts`` from now on.

    Layers whose experts are built otherwise (with biases, transposed, without a gate, with another
    activation) keep transformers' own grouped products; the log names them.

    ``model.set_experts_implementation("eager")`` takes it back.

    Args:
        model: a model of transformers 5 that can choose how its experts are computed.
        backend: None takes the first that can.
    Raises:
        ValueError: the model holds no experts that can be fused.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if not any(_misfit(module) is None for module in _experts_of(model)):
        raise ValueError(
            f"{type(model).__name__} holds no experts with matrices gate_up_proj and down_proj of "
            "SwiGLU; give a model such as OlmoeForCausalLM"
        )
    for name, module in model.named_modules():
        if _is_experts(module) and (reason := _misfit(module)):
            _LOG.warning("experts %s stay as they are: %s", name, reason)
    name = NAME if backend is None else f"{NAME}:{backend}"
    ALL_EXPERTS_FUNCTIONS.register(name, _computing(backend))
    model.set_experts_implementation(name)  # type: ignore[operator]


@contextmanager
def watching(model: nn.Module) -> Iterator[dict[str, list[Seen]]]:
    """What each layer's experts do while the model runs, by the path of the experts.

    Raises:
        ValueError: the model does not run on ``fused_experts``, or not all of it does.
    """
    layers = {name: module for name, module in model.named_modules() if _is_experts(module)}
    for name, module in layers.items():
        if not str(module.config._experts_implementation).startswith(NAME):
            raise ValueError(f"{name} does not run on fused experts; call use_fused_experts first")
        if reason := _misfit(module):
            raise ValueError(f"{name} cannot be watched: {reason}")
    seen: dict[str, list[Seen]] = {name: [] for name in layers}
    for name, module in layers.items():
        setattr(module, _WATCHED, seen[name])
    try:
        yield seen
    finally:
        for module in layers.values():
            delattr(module, _WATCHED)


def _computing(backend: Backend | None) -> Callable[..., Tensor]:
    """A function as transformers' table holds them."""

    def compute(
        self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
    ) -> Tensor:
        if _misfit(self):
            from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

            otherwise = ALL_EXPERTS_FUNCTIONS[_OTHERWISE]
            out: Tensor = otherwise(self, hidden_states, top_k_index, top_k_weights)
            return out
        seen: list[Seen] | None = getattr(self, _WATCHED, None)
        fused = fused_experts(
            hidden_states,
            self.gate_up_proj,
            self.down_proj,
            top_k_index,
            top_k_weights,
            audit=seen is not None,
            backend=backend,
        )
        if seen is not None:
            seen.append(
                _noted(top_k_index, top_k_weights, fused.contribution_TK, fused.alignment_TK)
            )
        return fused.out_TD

    return compute


def _noted(
    experts_TK: Tensor,
    weights_TK: Tensor,
    contribution_TK: Tensor | None,
    alignment_TK: Tensor | None,
) -> Seen:
    seen = Seen(experts_TK, weights_TK.detach(), contribution_TK, alignment_TK)

    def attribute(grad_TK: Tensor) -> None:
        seen.attribution_TK = seen.weights_TK * grad_TK

    if weights_TK.requires_grad:
        weights_TK.register_hook(attribute)
    return seen


def _experts_of(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if _is_experts(module))


def _is_experts(module: nn.Module) -> bool:
    """Whether transformers asks its table how to compute this module."""
    return hasattr(module, "is_concatenated") and hasattr(module, "down_proj")


def _misfit(module: nn.Module) -> str | None:
    """Why the fused operation does not fit these experts; None if it does."""
    from transformers.integrations.moe import _default_apply_gate

    if not getattr(module, "has_gate", False) or not hasattr(module, "gate_up_proj"):
        return "they have no gate"
    if not module.is_concatenated:
        return "rows of gate and up are interleaved"
    if module.is_transposed:
        return "their matrices are transposed"
    if module.has_bias:
        return "they have biases"
    if getattr(module, "has_post_expert_norm", False):
        return "they normalise their answers"
    if getattr(module, "_is_expert_parallel", False):
        return "they are spread over several devices"
    if type(module)._apply_gate is not _default_apply_gate:  # type: ignore[attr-defined]
        return "they have a gate of their own"
    if type(module.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
        return f"their activation is {type(module.act_fn).__name__}"
    return None
