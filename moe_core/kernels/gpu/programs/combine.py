"""A token's sum over its rows in fp32, and what an audit asks of each of them."""

import triton
import triton.language as tl


@triton.jit
def combine(
    y,
    rows,
    weights,
    experts,
    is_constant,
    constants,
    direction,
    out,
    norms,
    alignments,
    projections,
    width,
    num_experts,
    SLOTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    CONSTANTS: tl.constexpr,
    AUDIT: tl.constexpr,
    DIRECTION: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
):
    """``out[t] = sum_k weight[t, k] * y[row of (t, k)]``; slots without a row add nothing.

    Args:
        y: (rows, width).
        rows: (tokens, slots) int32, negative for a slot without a row.
        is_constant: (experts,) int8; with CONSTANTS, such experts answer ``constants[e]``.
        norms, alignments: of each slot's addend, with the token's sum; with AUDIT.
        projections: of each slot's answer on ``direction``; with DIRECTION.
    """
    token = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BS)
    real = slot < SLOTS
    row = tl.load(rows + token * SLOTS + slot, mask=real, other=-1)
    fills = row >= 0
    replaced = fills & False
    expert = tl.zeros((BS,), dtype=tl.int64)
    if CONSTANTS:
        expert = tl.load(experts + token * SLOTS + slot, mask=real, other=-1).to(tl.int64)
        known = (expert >= 0) & (expert < num_experts)
        replaced = known & (tl.load(is_constant + expert, mask=known, other=0) != 0)
    weight = tl.full((BS,), 1.0, dtype=tl.float32)
    if WEIGHTED:
        weight = tl.load(weights + token * SLOTS + slot, mask=fills | replaced, other=0.0)
    squares = tl.zeros((BS,), dtype=tl.float32)
    aligned = tl.zeros((BS,), dtype=tl.float32)
    projected = tl.zeros((BS,), dtype=tl.float32)
    for first in range(0, width, BD):
        column = first + tl.arange(0, BD)
        inside = column < width
        at = y + row.to(tl.int64)[:, None] * width + column[None, :]
        answer = tl.load(at, mask=fills[:, None] & inside[None, :], other=0.0).to(tl.float32)
        if CONSTANTS:
            at = constants + expert[:, None] * width + column[None, :]
            fixed = tl.load(at, mask=replaced[:, None] & inside[None, :], other=0.0)
            answer = tl.where(replaced[:, None], fixed.to(tl.float32), answer)
        addend = answer * weight[:, None]
        total = tl.sum(addend, 0)
        tl.store(out + token * width + column, total.to(out.dtype.element_ty), mask=inside)
        if AUDIT:
            squares += tl.sum(addend * addend, 1)
            aligned += tl.sum(addend * total[None, :], 1)
        if DIRECTION:
            along = tl.load(direction + column, mask=inside, other=0.0).to(tl.float32)
            projected += tl.sum(answer * along[None, :], 1)
    if AUDIT:
        tl.store(norms + token * SLOTS + slot, tl.sqrt(squares), mask=real)
        tl.store(alignments + token * SLOTS + slot, aligned, mask=real)
    if DIRECTION:
        tl.store(projections + token * SLOTS + slot, projected, mask=real)
