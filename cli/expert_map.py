"""What the expert audit saw, for people: a table of classes, and experts by layer in shades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .console import printable

SHADES = (" ", "░", "▒", "▓", "█")
"""Of a number from 0 to 1, in fifths; a plain file has no colours."""

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
    yield _heat(
        "\n  usage on clean texts, of the most used", layers, _of_largest(evidence["usage"])
    )
    for one in evidence["classes"]:
        if (table := one.get("loss_without_each_expert")) is not None:
            title = f"\n  what {one['words']!r} loses without each expert, of its success"
            shares = [[max(lost, 0.0) / one["success"] for lost in row] for row in table]
            yield _heat(title, layers, shares)
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


def _heat(title: str, layers: Sequence[str], values: Sequence[Sequence[float]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, row in zip(layers, values, strict=True):
        top = max(range(len(row)), key=lambda expert: row[expert])
        grid.add_row(
            Text(f"  {printable(name)}"),
            Text("".join(_shade(value) for value in row), "red"),
            Text(f"{row[top]:.2f} at expert {top}", "dim"),
        )
    return Group(Text(printable(title), "dim"), grid)


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
