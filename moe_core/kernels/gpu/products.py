"""Launches of the matrix programs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from moe_core.kernels.gpu.plan import Plan, Tiles, make_tiles
from moe_core.kernels.gpu.programs.inner import inner_gradient as _inner_gradient
from moe_core.kernels.gpu.programs.rows import rows_product as _rows_product
from moe_core.kernels.gpu.programs.up import up as _up
from moe_core.kernels.gpu.programs.weights import weight_gradient as _weight_gradient
from moe_core.kernels.gpu.tuned import Tile, tuned

_ALIGNMENT = 16
_WIDEST = 256
"""Columns of the widest tile."""


class Job(NamedTuple):
    """What all products of one pass over a layer share.

    Attributes:
        plan: of the routing.
        slots: of a token.
    """

    plan: Plan
    slots: int

    def tile(self, program: str, like: Tensor, depth: int | None) -> Tile:
        """How the program is cut for this many rows of this dtype; see ``Tuned.tile``."""
        rows = self.plan.slots_S.shape[0] // self.plan.ends_E.shape[0]
        return tuned().tile(program, like.itemsize, rows, depth)

    def tiles(self, tile: Tile) -> Tiles:
        """The tiles of rows for a program that is cut like this."""
        return make_tiles(self.plan, tile.rows)


def up(
    job: Job, x: Tensor, weight_E2ID: Tensor, *, gather: bool, save: bool
) -> tuple[Tensor, Tensor]:
    """First product and SwiGLU.

    Args:
        x: (tokens, width) with ``gather``, else (rows, width).
        save: whether the product itself is wanted too.
    Returns:
        the product, (rows, 2 * inner) or empty, and the activation, (rows, inner).
    """
    _, double, width = weight_E2ID.shape
    rows, inner = job.plan.slots_S.shape[0], double // 2
    tma = _describable(weight_E2ID) and (gather or _describable(x))
    tile = job.tile("up", x, width if tma else None)
    tiles = job.tiles(tile)
    pre = x.new_empty((rows, double) if save else (0, double))
    act = x.new_empty((rows, inner))
    _up[(tiles.bound * triton.cdiv(inner, tile.columns),)](
        x if gather else _described(x, tma, tile.rows, tile.depth),
        _described(weight_E2ID, tma, tile.columns, tile.depth),
        job.plan.slots_S,
        job.plan.ends_E,
        tiles.experts,
        tiles.rows,
        pre,
        act,
        tiles.bound,
        width,
        inner,
        x.stride(0),
        *weight_E2ID.stride()[:2],
        SLOTS=job.slots,
        GATHER=gather,
        TMA=tma,
        SAVE=save,
        EVEN=width % tile.depth == 0,
        **_cut(tile),
    )
    return pre, act


def rows_product(job: Job, a: Tensor, weight: Tensor, *, depth_first: bool) -> Tensor:
    """``a @ weight[e]`` with ``depth_first``, ``a @ weight[e].T`` without; (rows, width)."""
    depth, width = weight.shape[1:] if depth_first else weight.shape[:0:-1]
    tma = _describable(weight) and _describable(a)
    tile = job.tile("rows_product", a, depth if tma else None)
    tiles = job.tiles(tile)
    out = a.new_empty((a.shape[0], width))
    block = (tile.depth, tile.columns) if depth_first else (tile.columns, tile.depth)
    _rows_product[(tiles.bound * triton.cdiv(width, tile.columns),)](
        _described(a, tma, tile.rows, tile.depth),
        _described(weight, tma, *block),
        job.plan.ends_E,
        tiles.experts,
        tiles.rows,
        out,
        tiles.bound,
        depth,
        width,
        *weight.stride()[:2],
        DEPTH_FIRST=depth_first,
        TMA=tma,
        EVEN=depth % tile.depth == 0,
        **_cut(tile),
    )
    return out


def inner_gradient(
    job: Job, grad: Tensor, weight_EDI: Tensor, weights_TK: Tensor, pre: Tensor, *, gather: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward through the second product and SwiGLU.

    Args:
        grad: of the output, (tokens, width) with ``gather``, else (rows, width).
    Returns:
        gradient of ``pre``; weighted activation, (rows, inner); gradient of each row's gate weight,
        (rows,) fp32.
    """
    _, width, inner = weight_EDI.shape
    rows = job.plan.slots_S.shape[0]
    tma = _describable(weight_EDI) and (gather or _describable(grad))
    tile = job.tile("inner_gradient", grad, width if tma else None)
    tiles = job.tiles(tile)
    grad_pre, weighted_act = torch.empty_like(pre), pre.new_empty((rows, inner))
    across = triton.cdiv(inner, tile.columns)
    score_parts = pre.new_empty((across, rows), dtype=torch.float32)
    _inner_gradient[(tiles.bound * across,)](
        grad if gather else _described(grad, tma, tile.rows, tile.depth),
        _described(weight_EDI, tma, tile.depth, tile.columns),
        job.plan.slots_S,
        weights_TK,
        job.plan.ends_E,
        tiles.experts,
        tiles.rows,
        pre,
        grad_pre,
        weighted_act,
        score_parts,
        tiles.bound,
        rows,
        width,
        inner,
        grad.stride(0),
        *weight_EDI.stride()[:2],
        SLOTS=job.slots,
        GATHER=gather,
        TMA=tma,
        EVEN=width % tile.depth == 0,
        **_cut(tile),
    )
    return grad_pre, weighted_act, score_parts.sum(0)


def weight_gradient(job: Job, a: Tensor, b: Tensor, *, gather_a: bool, gather_b: bool) -> Tensor:
    """``a[rows of e].T @ b[rows of e]``, (experts, height, width)."""
    num_experts, height, width = job.plan.ends_E.shape[0], a.shape[1], b.shape[1]
    tma = (gather_a or _describable(a)) and (gather_b or _describable(b))
    # The depth of this product is rows; what may need a mask is the columns of what is gathered.
    gathered = [part.shape[1] for part, by_slot in ((a, gather_a), (b, gather_b)) if by_slot]
    fits = tma and all(columns % _WIDEST == 0 for columns in gathered)
    tile = job.tile("weight_gradient", a, 0 if fits else None)
    out = a.new_empty((num_experts, height, width))
    grid = num_experts * triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns)
    _weight_gradient[(grid,)](
        a if gather_a else _described(a, tma, tile.depth, tile.rows),
        b if gather_b else _described(b, tma, tile.depth, tile.columns),
        job.plan.slots_S,
        job.plan.ends_E,
        out,
        height,
        width,
        a.stride(0),
        b.stride(0),
        SLOTS=job.slots,
        GATHER_A=gather_a,
        GATHER_B=gather_b,
        TMA=tma,
        EVEN_A=height % tile.rows == 0,
        EVEN_B=width % tile.columns == 0,
        **_cut(tile),
    )
    return out


def _cut(tile: Tile) -> dict[str, Any]:
    return {
        "BM": tile.rows,
        "BN": tile.columns,
        "BK": tile.depth,
        "GROUP": tile.group,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def _describable(tensor: Tensor) -> bool:
    """Whether the hardware can copy its tiles: aligned rows, and something to copy."""
    *outer, last = tensor.stride()
    return (
        last == 1
        and tensor.numel() > 0
        and tensor.data_ptr() % _ALIGNMENT == 0
        and all(stride and stride * tensor.itemsize % _ALIGNMENT == 0 for stride in outer)
    )


def _described(tensor: Tensor, tma: bool, rows: int, columns: int) -> Any:
    """The tensor, by descriptor of its last two dimensions' tiles if it is to be so."""
    if not tma:
        return tensor
    block = [1] * (tensor.ndim - 2) + [rows, columns]
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block)
