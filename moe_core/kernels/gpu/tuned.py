"""Tiles of the matrix programs, as ``tuned.json`` has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("tuned.json")


class Tile(NamedTuple):
    """How one program of a matrix product is cut.

    Attributes:
        rows, columns: of the result that one program computes.
        depth: that it reads at a time.
        group: tiles along the rows that run beside each other, and share weights in the cache.
        warps: that share a program.
        stages: depths that are on their way at a time.
    """

    rows: int
    columns: int
    depth: int
    group: int
    warps: int
    stages: int


class Entry(NamedTuple):
    """A tile, and when to take it.

    Attributes:
        itemsize: bytes of a number.
        fits: whether it is for matrices that descriptors can read and whose depth is a multiple of
            the tile's: the others need more registers.
        rows: least rows per expert.
        tile: to be taken then.
    """

    itemsize: int
    fits: bool
    rows: int
    tile: Tile


class Tuned(NamedTuple):
    """What was found best.

    Attributes:
        explicit_gather_from: inner width from which rows are gathered first and read by descriptor.
        entries: by program, in the order in which they are tried.
    """

    explicit_gather_from: int
    entries: dict[str, list[Entry]]

    def tile(self, program: str, itemsize: int, rows: int, depth: int | None) -> Tile:
        """The first that holds.

        Args:
            rows: per expert.
            depth: of the product; None where descriptors cannot read the matrices.
        """
        return next(
            entry.tile
            for entry in self.entries[program]
            if entry.itemsize == itemsize
            and entry.rows <= rows
            and (not entry.fits or (depth is not None and depth % entry.tile.depth == 0))
        )


_instead: list[Tuned] = []


def tuned() -> Tuned:
    """What is in use: what is checked in, but inside of ``tuned_as``."""
    return _instead[-1] if _instead else _checked_in()


@contextmanager
def tuned_as(instead: Tuned) -> Iterator[None]:
    """Use something else inside, for tests and to find what is best."""
    _instead.append(instead)
    try:
        yield
    finally:
        _instead.pop()


@cache
def _checked_in() -> Tuned:
    return parse(FILE.read_text(encoding="utf-8"))


def parse(text: str) -> Tuned:
    """What ``tuned.json`` says."""
    told = json.loads(text)
    entries = {
        program: [
            Entry(one["itemsize"], one["fits"], one["rows"], Tile(**one["tile"])) for one in several
        ]
        for program, several in told["programs"].items()
    }
    return Tuned(told["explicit_gather_from"], entries)


def render(made: Tuned) -> str:
    """As ``parse`` reads it, one entry a line."""
    programs = ",\n".join(
        f"    {json.dumps(program)}: [\n"
        + ",\n".join(
            "      " + json.dumps({**one._asdict(), "tile": one.tile._asdict()}) for one in entries
        )
        + "\n    ]"
        for program, entries in made.entries.items()
    )
    gather = made.explicit_gather_from
    return f'{{\n  "explicit_gather_from": {gather},\n  "programs": {{\n{programs}\n  }}\n}}\n'
