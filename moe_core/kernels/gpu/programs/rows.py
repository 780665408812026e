"""One product per row with its expert's matrix: down, and the gradient of the rows of x."""

import triton
import triton.language as tl

from moe_core.kernels.gpu.programs.common import grouped_order, row_tile, weight_tile


@triton.jit(do_not_specialize=["num_tiles"])
def rows_product(
    a,
    weight,
    ends,
    tile_expert,
    tile_row,
    out,
    num_tiles,
    depth,
    width,
    stride_expert,
    stride_row,
    DEPTH_FIRST: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """``out = a @ weight[e]`` with DEPTH_FIRST, ``a @ weight[e].T`` without.

    Args:
        a: (rows, depth), sorted.
        weight: (experts, depth, width) with DEPTH_FIRST, else (experts, width, depth).
        out: (rows, width).
    """
    tile, n = grouped_order(tl.program_id(0), num_tiles, tl.cdiv(width, BN), GROUP)
    expert = tl.load(tile_expert + tile)
    if expert < 0:
        return
    row = tl.load(tile_row + tile)
    rows = row + tl.arange(0, BM)
    runs = rows < tl.load(ends + expert)
    source = tl.where(runs, rows, row)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, depth, BK):
        left = row_tile(a, row, source, k, depth, depth, BK, TMA, EVEN)
        if DEPTH_FIRST:
            right = weight_tile(
                weight, expert, k, n * BN, stride_expert, stride_row, depth, width, BK, BN, TMA
            )
        else:
            right = weight_tile(
                weight, expert, n * BN, k, stride_expert, stride_row, width, depth, BN, BK, TMA
            ).T
        acc = tl.dot(left, right, acc, input_precision="ieee")
    column = n * BN + tl.arange(0, BN)
    at = out + rows.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=runs[:, None] & (column < width)[None, :])
