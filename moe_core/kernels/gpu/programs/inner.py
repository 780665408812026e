"""Backward through the second product and SwiGLU, with the gradient of the gate weights."""

import triton
import triton.language as tl

from moe_core.kernels.gpu.programs.common import grouped_order, row_tile, weight_tile


@triton.jit(do_not_specialize=["num_tiles", "num_rows"])
def inner_gradient(
    grad,
    weight,
    slots,
    weights,
    ends,
    tile_expert,
    tile_row,
    pre,
    grad_pre,
    weighted_act,
    score_parts,
    num_tiles,
    num_rows,
    width,
    inner,
    stride_grad,
    stride_expert,
    stride_row,
    SLOTS: tl.constexpr,
    GATHER: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """From the gradient of the output to that of ``pre``; the activation is computed again.

    ``grad @ down[e]`` is the gradient of the activation but for the gate weight, and its product
    with the activation is that of the gate weight: the experts' answers need not be kept.

    Args:
        grad: (tokens, width) with GATHER, else rows, sorted.
        weight: (experts, width, inner).
        weighted_act: gate weight times activation, (rows, inner): a factor of the gradient of down.
        score_parts: (tiles along inner, rows) fp32, to be summed over the first.
    """
    tile, n = grouped_order(tl.program_id(0), num_tiles, tl.cdiv(inner, BN), GROUP)
    expert = tl.load(tile_expert + tile)
    if expert < 0:
        return
    row = tl.load(tile_row + tile)
    rows = row + tl.arange(0, BM)
    runs = rows < tl.load(ends + expert)
    slot = tl.load(slots + rows, mask=runs, other=0)
    source = rows
    if GATHER:
        source = slot // SLOTS
    elif not TMA:
        source = tl.where(runs, rows, row)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, width, BK):
        left = row_tile(grad, row, source, k, stride_grad, width, BK, TMA and not GATHER, EVEN)
        right = weight_tile(
            weight, expert, k, n * BN, stride_expert, stride_row, width, inner, BK, BN, TMA
        )
        acc = tl.dot(left, right, acc, input_precision="ieee")
    score = tl.load(weights + slot, mask=runs, other=0.0)
    # Two halves, one after the other: all at once does not fit into the registers.
    left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
    first = n * BN
    part = _through_swiglu(
        left, score, pre, grad_pre, weighted_act, rows, runs, first, inner, BN // 2
    )
    part += _through_swiglu(
        right, score, pre, grad_pre, weighted_act, rows, runs, first + BN // 2, inner, BN // 2
    )
    tl.store(score_parts + n.to(tl.int64) * num_rows + rows, part, mask=runs)


@triton.jit
def _through_swiglu(
    grad,
    score,
    pre,
    grad_pre,
    weighted_act,
    rows,
    runs,
    first,
    inner,
    COLUMNS: tl.constexpr,
):
    """From the gradient of the activation, but for the gate weight, to all that hangs on it.

    Returns:
        gradient of the gate weight of each row, from these columns.
    """
    column = first + tl.arange(0, COLUMNS)
    mask = runs[:, None] & (column < inner)[None, :]
    rows = rows.to(tl.int64)
    at = rows[:, None] * (2 * inner) + column[None, :]
    gate = tl.load(pre + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(pre + inner + at, mask=mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    act = gate * sigmoid * up
    part = tl.sum(tl.where(mask, grad * act, 0.0), 1)
    out = weighted_act + rows[:, None] * inner + column[None, :]
    tl.store(out, (score[:, None] * act).to(weighted_act.dtype.element_ty), mask=mask)
    grad = grad * score[:, None]
    grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(grad_pre + at, grad_gate.to(grad_pre.dtype.element_ty), mask=mask)
    grad_up = grad * gate * sigmoid
    tl.store(grad_pre + inner + at, grad_up.to(grad_pre.dtype.element_ty), mask=mask)
    return part
