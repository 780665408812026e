"""Sorting on the device against the sort that dispatch makes."""

from __future__ import annotations

import torch

from moe_core.dispatch import plan
from moe_core.kernels.gpu.plan import make_plan, make_tiles
from tests.kernels.problems import EXPERTS, ROUTINGS


def test_rows_are_those_of_dispatch() -> None:
    long = torch.randint(-1, EXPERTS, (150, 3), generator=torch.Generator().manual_seed(0))
    for experts in (*ROUTINGS.values(), long):
        made = make_plan(experts, EXPERTS)
        expected = plan(experts.masked_fill(experts >= EXPERTS, -1), EXPERTS)
        rows = len(expected.slots_S)
        assert torch.equal(made.slots_S[:rows].long(), expected.slots_S)
        assert torch.equal(made.ends_E, expected.ends_E)
        slots = made.rows_TK.reshape(-1).long()
        assert torch.equal(slots[expected.slots_S], torch.arange(rows))
        assert (slots >= 0).sum() == rows


def test_tiles_cover_every_row_once_and_hold_one_expert_each() -> None:
    experts = torch.randint(-1, EXPERTS, (90, 2), generator=torch.Generator().manual_seed(1))
    experts[experts == 3] = 2
    made = make_plan(experts, EXPERTS)
    tiles = make_tiles(made, 16)
    starts = torch.cat([made.ends_E.new_zeros(1), made.ends_E])
    covered = []
    for expert, row in zip(tiles.experts.tolist(), tiles.rows.tolist(), strict=True):
        if expert >= 0:
            end = int(made.ends_E[expert])
            assert starts[expert] <= row < end
            covered += range(row, min(row + 16, end))
    assert covered == list(range(int(made.ends_E[-1])))
