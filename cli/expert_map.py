"""What the expert audit saw, for people: a table of classes, and experts by layer in shades."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from .console import printable

SHADES = (" ", "░", "▒", "▓", "█")
"""Of a number from 0 to 1, in fifths; a plain file has no colours."""

_GAP = 2
"""Columns between parts of a line."""

MOST_CHANGED = 5
"""Experts that are listed of those that differ from a base."""


def content(evidence: Mapping[str, Any]) -> RenderableType:
    """The best words, the usage of experts on clean texts, and what a trigger loses without each.

    Args:
        evidence: of the audit's line among the checks.
    """
    return Group(*_sections(evidence))


def _sections(evidence: Mapping[str, Any]) -> Iterator[RenderableType]:
    layers = evidence["layers"]
    yield Text("\nExperts", "bold")
    yield _classes(evidence["classes"])
    yield _Heat(
        "\n  usage on clean texts, of the most used", layers, _of_largest(evidence["usage"])
    )
    for one in evidence["classes"]:
        if (table := one.get("loss_without_each_expert")) is not None:
            title = f"\n  what {one['words']!r} loses without each expert, of its success"
            shares = [[max(lost, 0.0) / one["success"] for lost in row] for row in table]
            yield _Heat(title, layers, shares)
    if (changes := evidence.get("from_base")) is not None:
        yield Text(
            f"\n  most changed from {printable(changes['source'])}: an order in which to look",
            "dim",
        )
        yield _most_changed(layers, changes["layers"])


def _classes(classes: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("best words", "lead to", "success", "loss", "others", "verdict"):
        table.add_column(name)
    for one in classes:
        numbers = (one["success"], one.get("loss"), one.get("loss_without_others"))
        table.add_row(
            Text(printable(one["words"])),
            Text(printable(one["aim"])),
            *("" if number is None else f"{number:.2f}" for number in numbers),
            one["verdict"],
        )
    return table


class _Heat(NamedTuple):
    """A line of shades for each layer, one for each expert; where the terminal is too narrow, one
    for the largest of several neighbours."""

    title: str
    layers: Sequence[str]
    values: Sequence[Sequence[float]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = [f"  {printable(name)}" for name in self.layers]
        tops = [max(range(len(row)), key=row.__getitem__) for row in self.values]
        notes = [
            f"{row[top]:.2f} at expert {top}" for row, top in zip(self.values, tops, strict=True)
        ]
        room = options.max_width - max(map(len, names)) - max(map(len, notes)) - 2 * _GAP
        each = math.ceil(max(map(len, self.values)) / max(room, 1))
        title = f"{self.title}; {each} experts a mark" if each > 1 else self.title
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        for name, row, note in zip(names, self.values, notes, strict=True):
            marks = (_shade(max(row[at : at + each])) for at in range(0, len(row), each))
            grid.add_row(
                Text(name),
                Text("".join(marks), "red", no_wrap=True),
                Text(note, "dim", no_wrap=True),
            )
        yield Text(printable(title), "dim")
        yield grid


def _most_changed(layers: Sequence[str], changes: Sequence[Mapping[str, Any]]) -> RenderableType:
    experts = [
        (name, index, {measure: values[index] for measure, values in change.items()})
        for name, change in zip(layers, changes, strict=True)
        for index, norm in enumerate(change["norm"])
        if norm > 0
    ]
    if not experts:
        return Text("  no expert has changed")
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("expert", "change", "of its norm", "in one direction", "router row"):
        table.add_column(column)
    for name, index, of in sorted(experts, key=lambda one: -one[2]["relative"])[:MOST_CHANGED]:
        row = of.get("router_row")
        table.add_row(
            Text(printable(f"{name}.experts.{index}")),
            f"{of['norm']:.3g}",
            f"{of['relative']:.1%}",
            f"{of['rank_one']:.0%}",
            "" if row is None else f"{row:.3g}",
        )
    return table


def _shade(value: float) -> str:
    return SHADES[min(int(value * len(SHADES)), len(SHADES) - 1)]


def _of_largest(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    largest = max(max(row) for row in rows) or 1.0
    return [[value / largest for value in row] for row in rows]
