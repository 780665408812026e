"""Which tile a program takes, and the file that says so."""

from __future__ import annotations

import pytest

from moe_core.kernels.gpu import tuned
from moe_core.kernels.gpu.tuned import Entry, Tile, Tuned

LARGE, SMALL, ODD, WIDE = (Tile(rows, 64, 32, 8, 8, 3) for rows in (128, 64, 32, 16))
MADE = Tuned(
    1000,
    {
        "up": [
            Entry(2, True, 400, LARGE),
            Entry(2, True, 0, SMALL),
            Entry(2, False, 0, ODD),
            Entry(4, False, 0, WIDE),
        ]
    },
)


@pytest.mark.parametrize(
    ("itemsize", "rows", "depth", "expected"),
    [
        (2, 400, 64, LARGE),
        (2, 399, 64, SMALL),
        (2, 400, 65, ODD),
        (2, 400, None, ODD),
        (4, 400, 64, WIDE),
    ],
)
def test_the_first_entry_that_holds(
    itemsize: int, rows: int, depth: int | None, expected: Tile
) -> None:
    assert MADE.tile("up", itemsize, rows, depth) == expected


def test_the_file_is_written_as_it_is_read() -> None:
    checked_in = tuned.FILE.read_text(encoding="utf-8")
    assert tuned.render(tuned.parse(checked_in)) == checked_in


def test_the_file_has_a_tile_for_every_case() -> None:
    for program in ("up", "rows_product", "inner_gradient", "weight_gradient"):
        for itemsize in (2, 4):
            for depth in (64, 65, None):
                assert tuned.tuned().tile(program, itemsize, 0, depth).rows


def test_something_else_is_in_use_only_inside() -> None:
    before = tuned.tuned()
    with tuned.tuned_as(MADE):
        assert tuned.tuned() == MADE
    assert tuned.tuned() == before
