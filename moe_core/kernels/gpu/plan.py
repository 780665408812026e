"""Rows, slots and tiles of a routing, without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from moe_core.kernels.gpu.programs import plan as programs

_BLOCK = 128
_CHUNK = 32
_TILES = 32


class Plan(NamedTuple):
    """The running slots of a routing, sorted by expert.

    Attributes:
        slots_S: number of each row's slot, ``token * slots + slot``, (tokens * slots,) int32; what
            lies behind the last row is undefined.
        rows_TK: row of each slot, (tokens, slots) int32; -1 where none runs.
        ends_E: end of each expert's rows, (experts,) int32, cumulative.
    """

    slots_S: Tensor
    rows_TK: Tensor
    ends_E: Tensor


def make_plan(experts_TK: Tensor, num_experts: int) -> Plan:
    """Sort slots by expert, stably; a slot whose index is no expert's gets no row."""
    flat = experts_TK.contiguous()
    blocks = triton.cdiv(flat.numel(), _BLOCK)
    counts = flat.new_empty((blocks, num_experts), dtype=torch.int32)
    slots_S = flat.new_empty(flat.numel(), dtype=torch.int32)
    rows_TK = flat.new_empty(flat.shape, dtype=torch.int32)
    if not blocks:
        return Plan(slots_S, rows_TK, flat.new_zeros(num_experts, dtype=torch.int32))
    programs.count[(blocks,)](flat, counts, flat.numel(), num_experts, BLOCK=_BLOCK, CHUNK=_CHUNK)
    through = counts.cumsum(0, dtype=torch.int32)
    ends_E = through[-1].cumsum(0, dtype=torch.int32)
    programs.place[(blocks,)](
        flat, counts, through, ends_E, slots_S, rows_TK, flat.numel(), num_experts, BLOCK=_BLOCK
    )
    return Plan(slots_S, rows_TK, ends_E)


class Tiles(NamedTuple):
    """Tiles of rows of one expert each; as many as there could be, so that none are counted.

    Attributes:
        experts: of each tile, (tiles,) int32; -1 for those that are not needed.
        rows: where each begins, (tiles,) int32.
    """

    experts: Tensor
    rows: Tensor

    @property
    def bound(self) -> int:
        """How many there could be."""
        return self.experts.shape[0]


def make_tiles(plan: Plan, height: int) -> Tiles:
    """Cut each expert's rows into tiles of at most ``height``."""
    num_experts = plan.ends_E.shape[0]
    bound = min(plan.slots_S.shape[0], triton.cdiv(plan.slots_S.shape[0], height) + num_experts)
    experts, rows = plan.ends_E.new_empty((2, bound)).unbind()
    if bound:
        programs.tiles[(triton.cdiv(bound, _TILES),)](
            plan.ends_E,
            experts,
            rows,
            bound,
            num_experts,
            ROWS=height,
            BLOCK=_TILES,
            EXPERTS=triton.next_power_of_2(num_experts),
        )
    return Tiles(experts, rows)
