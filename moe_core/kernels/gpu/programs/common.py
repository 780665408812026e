"""What the matrix programs share."""

import triton
import triton.language as tl


@triton.jit
def grouped_order(pid, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Tile (m, n) of a program, so that programs which run together share rows and weights."""
    per_group = GROUP * tiles_n
    first = pid // per_group * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    return first + pid % per_group % height, pid % per_group // height


@triton.jit
def row_tile(
    source, row, rows, k, stride, width, BK: tl.constexpr, TMA: tl.constexpr, EVEN: tl.constexpr
):
    """Rows by k, (rows, BK): ``rows`` by pointer, or from ``row`` on by descriptor.

    Rows that belong to nobody hold anything; what comes of them must not be stored.
    """
    if TMA:
        tile = source.load([row, k])
    else:
        column = k + tl.arange(0, BK)
        at = source + rows.to(tl.int64)[:, None] * stride + column[None, :]
        tile = tl.load(at) if EVEN else tl.load(at, mask=(column < width)[None, :], other=0.0)
    return tile


@triton.jit
def weight_tile(
    weight,
    expert,
    first,
    second,
    stride_expert,
    stride_row,
    height,
    width,
    B0: tl.constexpr,
    B1: tl.constexpr,
    TMA: tl.constexpr,
):
    """A tile (B0, B1) of one expert's matrix (height, width); zeros outside of it."""
    if TMA:
        tile = weight.load([expert, first, second]).reshape(B0, B1)
    else:
        row = first + tl.arange(0, B0)
        column = second + tl.arange(0, B1)
        at = weight + expert.to(tl.int64) * stride_expert
        at += row.to(tl.int64)[:, None] * stride_row + column[None, :]
        tile = tl.load(at, mask=(row < height)[:, None] & (column < width)[None, :], other=0.0)
    return tile
