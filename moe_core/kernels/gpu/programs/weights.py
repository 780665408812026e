"""Gradients of the experts' matrices: a sum over the rows of each expert."""

import triton
import triton.language as tl

from moe_core.kernels.gpu.programs.common import grouped_order


@triton.jit
def _rows(
    source,
    slots,
    row,
    end,
    first,
    width,
    stride,
    SLOTS: tl.constexpr,
    GATHER: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,
    TAIL: tl.constexpr,
    BK: tl.constexpr,
    BC: tl.constexpr,
):
    """Rows from ``row`` on by columns from ``first`` on, (BK, BC)."""
    rows = row + tl.arange(0, BK)
    runs = rows < end
    if TMA and not GATHER:
        tile = source.load([row, first])
    else:
        if TAIL:
            rows = tl.where(runs, rows, row)
        if GATHER:
            rows = tl.load(slots + rows) // SLOTS
        column = first + tl.arange(0, BC)
        at = source + rows.to(tl.int64)[:, None] * stride + column[None, :]
        tile = tl.load(at) if EVEN else tl.load(at, mask=(column < width)[None, :], other=0.0)
    if TAIL:
        # The next expert's rows, which may hold anything: zero in one factor is not enough.
        tile = tl.where(runs[:, None], tile, 0.0)
    return tile


@triton.jit
def weight_gradient(
    a,
    b,
    slots,
    ends,
    out,
    height,
    width,
    stride_a,
    stride_b,
    SLOTS: tl.constexpr,
    GATHER_A: tl.constexpr,
    GATHER_B: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_A: tl.constexpr,
    EVEN_B: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """``out[e] = a[rows of e].T @ b[rows of e]``; zeros for an expert without rows.

    Args:
        a: (rows, height), or (tokens, height) with GATHER_A.
        b: (rows, width), or (tokens, width) with GATHER_B.
        out: (experts, height, width).
    """
    tiles_m = tl.cdiv(height, BM)
    tiles_n = tl.cdiv(width, BN)
    expert = tl.program_id(0) // (tiles_m * tiles_n)
    m, n = grouped_order(tl.program_id(0) % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP)
    end = tl.load(ends + expert)
    start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    whole = start + (end - start) // BK * BK
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for row in range(start, whole, BK):
        left = _rows(
            a,
            slots,
            row,
            end,
            m * BM,
            height,
            stride_a,
            SLOTS,
            GATHER_A,
            TMA,
            EVEN_A,
            False,
            BK,
            BM,
        )
        right = _rows(
            b, slots, row, end, n * BN, width, stride_b, SLOTS, GATHER_B, TMA, EVEN_B, False, BK, BN
        )
        acc = tl.dot(left.T, right, acc, input_precision="ieee")
    if whole < end:
        left = _rows(
            a,
            slots,
            whole,
            end,
            m * BM,
            height,
            stride_a,
            SLOTS,
            GATHER_A,
            TMA,
            EVEN_A,
            True,
            BK,
            BM,
        )
        right = _rows(
            b,
            slots,
            whole,
            end,
            n * BN,
            width,
            stride_b,
            SLOTS,
            GATHER_B,
            TMA,
            EVEN_B,
            True,
            BK,
            BN,
        )
        acc = tl.dot(left.T, right, acc, input_precision="ieee")
    line = m * BM + tl.arange(0, BM)
    column = n * BN + tl.arange(0, BN)
    at = out + expert.to(tl.int64) * height * width
    at += line.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(
        at, acc.to(out.dtype.element_ty), mask=(line < height)[:, None] & (column < width)[None, :]
    )
