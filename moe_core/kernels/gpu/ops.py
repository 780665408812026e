"""The Triton layer as operators that autograd and torch.compile know.

An operator's outputs may share no memory, hence one empty tensor for each that was not asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moe_core.kernels.gpu import experts as gpu
from moe_core.kernels.gpu.device import device_of
from moe_core.kernels.gpu.plan import Plan
from moe_core.kernels.told import Constants, Fused, Inputs

_Eight = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def by_triton(inputs: Inputs) -> Fused:
    """As ``fused_experts``."""
    x_TD, gate_up_proj, down_proj, experts_TK, weights_TK, constants, direction_D, audit = inputs
    chosen_E, answers_ED = constants or (None, None)
    learns = any(part.requires_grad for part in (x_TD, gate_up_proj, down_proj, weights_TK))
    out, norms, alignments, projections, *_ = _experts(
        _rows_contiguous(x_TD),
        _rows_contiguous(gate_up_proj),
        _rows_contiguous(down_proj),
        experts_TK.contiguous(),
        weights_TK.contiguous(),
        chosen_E,
        None if answers_ED is None else answers_ED.detach().contiguous(),
        None if direction_D is None else direction_D.detach().contiguous(),
        audit,
        learns and torch.is_grad_enabled(),
    )
    return Fused(
        out,
        norms if audit else None,
        alignments if audit else None,
        None if direction_D is None else projections,
    )


@torch.library.custom_op("moe_core::experts", mutates_args=())
def _experts(
    x: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    experts: Tensor,
    weights: Tensor,
    chosen: Tensor | None,
    answers: Tensor | None,
    direction: Tensor | None,
    audit: bool,
    save: bool,
) -> _Eight:
    with device_of(x):
        done = gpu.forward(
            x,
            gate_up_proj,
            down_proj,
            experts,
            weights,
            _constants(chosen, answers),
            direction,
            audit=audit,
            save=save,
        )
    return *done[:5], *done.plan


@_experts.register_fake
def _(
    x: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    experts: Tensor,
    weights: Tensor,
    chosen: Tensor | None,
    answers: Tensor | None,
    direction: Tensor | None,
    audit: bool,
    save: bool,
) -> _Eight:
    def of_slots(asked: bool) -> Tensor:
        return x.new_empty(experts.shape if asked else (0,), dtype=torch.float32)

    rows, double = experts.numel(), gate_up_proj.shape[1]
    return (
        x.new_empty(x.shape),
        of_slots(audit),
        of_slots(audit),
        of_slots(direction is not None),
        x.new_empty((rows if save else 0, double)),
        experts.new_empty(rows, dtype=torch.int32),
        experts.new_empty(experts.shape, dtype=torch.int32),
        experts.new_empty(gate_up_proj.shape[0], dtype=torch.int32),
    )


@torch.library.custom_op("moe_core::experts_backward", mutates_args=())
def _experts_backward(
    grad: Tensor,
    x: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    experts: Tensor,
    weights: Tensor,
    chosen: Tensor | None,
    answers: Tensor | None,
    pre: Tensor,
    slots: Tensor,
    rows: Tensor,
    ends: Tensor,
    needs_x: bool,
    needs_gate_up: bool,
    needs_down: bool,
    needs_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with device_of(x):
        return gpu.backward(
            _rows_contiguous(grad),
            x,
            gate_up_proj,
            down_proj,
            experts,
            weights,
            _constants(chosen, answers),
            pre,
            Plan(slots, rows, ends),
            (needs_x, needs_gate_up, needs_down, needs_weights),
        )


@_experts_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    experts: Tensor,
    weights: Tensor,
    chosen: Tensor | None,
    answers: Tensor | None,
    pre: Tensor,
    slots: Tensor,
    rows: Tensor,
    ends: Tensor,
    needs_x: bool,
    needs_gate_up: bool,
    needs_down: bool,
    needs_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(part: Tensor, needed: bool) -> Tensor:
        return part.new_empty(part.shape if needed else (0,))

    return (
        like(x, needs_x),
        like(gate_up_proj, needs_gate_up),
        like(down_proj, needs_down),
        like(weights, needs_weights),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: _Eight) -> None:
    x, gate_up_proj, down_proj, experts, weights, chosen, answers, *_ = inputs
    _, *others = output
    ctx.mark_non_differentiable(*others)
    ctx.save_for_backward(
        x, gate_up_proj, down_proj, experts, weights, chosen, answers, *output[4:]
    )


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    needed = [ctx.needs_input_grad[index] for index in (0, 1, 2, 4)]
    grads = _experts_backward(grad, *ctx.saved_tensors, *needed)
    x, gate_up_proj, down_proj, weights = (
        part if wanted else None for part, wanted in zip(grads, needed, strict=True)
    )
    return x, gate_up_proj, down_proj, None, weights, None, None, None, None, None


_experts.register_autograd(_differentiate, setup_context=_remember)


def _constants(chosen: Tensor | None, answers: Tensor | None) -> Constants | None:
    return None if chosen is None or answers is None else Constants(chosen, answers)


def _rows_contiguous(tensor: Tensor) -> Tensor:
    """What the programs read by row: any strides but the last."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
