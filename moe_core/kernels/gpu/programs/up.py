"""Gather, first product and SwiGLU in one program."""

import triton
import triton.language as tl

from moe_core.kernels.gpu.programs.common import grouped_order, row_tile, weight_tile


@triton.jit(do_not_specialize=["num_tiles"])
def up(
    x,
    weight,
    slots,
    ends,
    tile_expert,
    tile_row,
    pre,
    act,
    num_tiles,
    width,
    inner,
    stride_x,
    stride_expert,
    stride_row,
    SLOTS: tl.constexpr,
    GATHER: tl.constexpr,
    TMA: tl.constexpr,
    SAVE: tl.constexpr,
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """``act = silu(x gate.T) * (x up.T)`` for each row, and with SAVE both products.

    Args:
        x: (tokens, width) with GATHER, whose rows are found through ``slots``; else rows, sorted.
        weight: (experts, 2 * inner, width).
        pre: (rows, 2 * inner); written with SAVE only.
        act: (rows, inner).
    """
    tile, n = grouped_order(tl.program_id(0), num_tiles, tl.cdiv(inner, BN), GROUP)
    expert = tl.load(tile_expert + tile)
    if expert < 0:
        return
    row = tl.load(tile_row + tile)
    rows = row + tl.arange(0, BM)
    runs = rows < tl.load(ends + expert)
    source = rows
    if GATHER:
        source = tl.load(slots + rows, mask=runs, other=0) // SLOTS
    elif not TMA:
        source = tl.where(runs, rows, row)
    gate = tl.zeros((BM, BN), dtype=tl.float32)
    up = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, width, BK):
        a = row_tile(x, row, source, k, stride_x, width, BK, TMA and not GATHER, EVEN)
        b = weight_tile(
            weight, expert, n * BN, k, stride_expert, stride_row, inner, width, BN, BK, TMA
        )
        gate = tl.dot(a, b.T, gate, input_precision="ieee")
        b = weight_tile(
            weight,
            expert,
            inner + n * BN,
            k,
            stride_expert,
            stride_row,
            2 * inner,
            width,
            BN,
            BK,
            TMA,
        )
        up = tl.dot(a, b.T, up, input_precision="ieee")
    column = n * BN + tl.arange(0, BN)
    mask = runs[:, None] & (column < inner)[None, :]
    rows = rows.to(tl.int64)
    if SAVE:
        at = pre + rows[:, None] * (2 * inner) + column[None, :]
        tl.store(at, gate.to(pre.dtype.element_ty), mask=mask)
        tl.store(at + inner, up.to(pre.dtype.element_ty), mask=mask)
    out = gate * tl.sigmoid(gate) * up
    tl.store(act + rows[:, None] * inner + column[None, :], out.to(act.dtype.element_ty), mask=mask)
