"""The experts of a layer, forward and backward, in Triton."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from moe_core.kernels.gpu import products
from moe_core.kernels.gpu.plan import Plan, make_plan
from moe_core.kernels.gpu.products import Job
from moe_core.kernels.gpu.programs.combine import combine as _combine
from moe_core.kernels.gpu.tuned import tuned
from moe_core.kernels.told import Constants

_ELEMENTS = 8192
"""Numbers of a token's rows that one program of ``combine`` holds."""


class Forward(NamedTuple):
    """What a forward pass makes: the result, what an audit asked for, what backward needs.

    Attributes:
        out_TD: in the dtype of the tokens.
        norms_TK, alignments_TK, projections_TK: fp32; empty where not asked for.
        pre: the first product, (rows, 2 * inner); empty where there will be no backward.
        plan: of the routing.
    """

    out_TD: Tensor
    norms_TK: Tensor
    alignments_TK: Tensor
    projections_TK: Tensor
    pre: Tensor
    plan: Plan


class Gradients(NamedTuple):
    """Of the inputs; empty where not asked for."""

    x_TD: Tensor
    gate_up_proj: Tensor
    down_proj: Tensor
    weights_TK: Tensor


def forward(
    x_TD: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    constants: Constants | None,
    direction_D: Tensor | None,
    *,
    audit: bool,
    save: bool,
) -> Forward:
    """Run the experts; arguments as in ``fused_experts``, rows of tensors contiguous."""
    plan = make_plan(_running(experts_TK, constants), gate_up_proj.shape[0])
    job = Job(plan, experts_TK.shape[1])
    gather = _fuses_gather(gate_up_proj)
    rows = x_TD if gather else _gathered(x_TD, job)
    pre, act = products.up(job, rows, gate_up_proj, gather=gather, save=save)
    del rows
    y = products.rows_product(job, act, down_proj, depth_first=False)
    del act
    return Forward(
        *combined(y, plan, x_TD, weights_TK, experts_TK, constants, direction_D, audit=audit),
        pre,
        plan,
    )


def backward(
    grad_TD: Tensor,
    x_TD: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    constants: Constants | None,
    pre: Tensor,
    plan: Plan,
    needed: tuple[bool, bool, bool, bool],
) -> Gradients:
    """Gradients of tokens, both matrices and gate weights, as far as they are needed."""
    job = Job(plan, experts_TK.shape[1])
    gather = _fuses_gather(gate_up_proj)
    grad = grad_TD if gather else _gathered(grad_TD, job)
    grad_pre, weighted_act, scores = products.inner_gradient(
        job, grad, down_proj, weights_TK, pre, gather=gather
    )
    grad_x, grad_up, grad_down = (x_TD.new_empty(0) for _ in range(3))
    grad_weights = weights_TK.new_empty(0)
    if needed[2]:
        grad_down = products.weight_gradient(
            job, grad, weighted_act, gather_a=gather, gather_b=False
        )
    del grad, weighted_act
    if needed[1]:
        rows = x_TD if gather else _gathered(x_TD, job)
        grad_up = products.weight_gradient(job, grad_pre, rows, gather_a=False, gather_b=gather)
        del rows
    if needed[0]:
        grad_rows = products.rows_product(job, grad_pre, gate_up_proj, depth_first=True)
        grad_x, *_ = combined(grad_rows, plan, x_TD, None, experts_TK, None, None, audit=False)
    if needed[3]:
        grad_weights = _of_slots(scores, plan)
        if constants is not None:
            grad_weights = grad_weights + _constant_scores(grad_TD, experts_TK, constants)
    return Gradients(grad_x, grad_up, grad_down, grad_weights)


def _fuses_gather(gate_up_proj: Tensor) -> bool:
    return gate_up_proj.shape[1] // 2 < tuned().explicit_gather_from


def _gathered(x_TD: Tensor, job: Job) -> Tensor:
    """The token of every row; what lies behind the last row is any token's."""
    last = max(len(x_TD) - 1, 0)
    return x_TD.index_select(0, (job.plan.slots_S // job.slots).clamp(0, last))


def _running(experts_TK: Tensor, constants: Constants | None) -> Tensor:
    """The experts that are to be run; those that answer with a constant are not."""
    if constants is None:
        return experts_TK
    return experts_TK.masked_fill(constants.answered(experts_TK), -1)


def _constant_scores(grad_TD: Tensor, experts_TK: Tensor, constants: Constants) -> Tensor:
    """Gradient of the gate weights of experts that answer with a constant, (tokens, slots)."""
    mine_TK = constants.answered(experts_TK)
    scores_TE = grad_TD.float() @ constants.answers_ED.float().T
    return scores_TE.gather(1, experts_TK.where(mine_TK, 0)).masked_fill(~mine_TK, 0)


def _of_slots(values_S: Tensor, plan: Plan) -> Tensor:
    """A value of each row to its slot, (tokens, slots); 0 where none runs."""
    rows_TK = plan.rows_TK
    return values_S[rows_TK.clamp(min=0)].masked_fill(rows_TK < 0, 0)


def combined(
    y: Tensor,
    plan: Plan,
    like_TD: Tensor,
    weights_TK: Tensor | None,
    experts_TK: Tensor,
    constants: Constants | None,
    direction_D: Tensor | None,
    *,
    audit: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each token's sum over its rows, and norms, alignments and projections as in ``Forward``.

    Args:
        weights_TK: gate weights; None for a plain sum.
    """
    tokens, slots = plan.rows_TK.shape
    out = like_TD.new_empty((tokens, y.shape[1]))
    none = y.new_empty(0, dtype=torch.float32)
    norms, alignments = (none.new_empty((tokens, slots) if audit else 0) for _ in range(2))
    projections = none.new_empty(0 if direction_D is None else (tokens, slots))
    slots_block = triton.next_power_of_2(slots)
    if tokens:
        _combine[(tokens,)](
            y,
            plan.rows_TK,
            none if weights_TK is None else weights_TK,
            experts_TK,
            none if constants is None else constants.chosen_E.to(torch.int8),
            none if constants is None else constants.answers_ED,
            none if direction_D is None else direction_D,
            out,
            norms,
            alignments,
            projections,
            y.shape[1],
            1 if constants is None else len(constants.chosen_E),
            SLOTS=slots,
            WEIGHTED=weights_TK is not None,
            CONSTANTS=constants is not None,
            AUDIT=audit,
            DIRECTION=direction_D is not None,
            BS=slots_block,
            BD=min(triton.next_power_of_2(y.shape[1]), max(_ELEMENTS // slots_block, 1)),
            num_warps=4,
        )
    return out, norms, alignments, projections
