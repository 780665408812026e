"""Results as Markdown: ``python -m badexpert.bench.tables FOLDER`` prints them.

With ``--into FILE`` they replace those in a document.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from badexpert.bench.cells import Cell
from badexpert.bench.results import Results
from badexpert.bench.summary import ACCURACY, COST, STAMPED, Figure, auroc, summarise
from badexpert.detectors import BaDExpert
from badexpert.errors import BadExpertError, ConfigError
from moe_core.bench.program import run

NOTHING = "-"
_NAMED = 3
_SHOWN = 4
"""Digits of an AUROC; a lead that does not show in them is none."""


def render(results: Results) -> str:
    """All tables, a section for each number of clean images."""
    blocks = [_preface(results)]
    for size in results.index.clean_sizes:
        cells = [cell for cell in results.cells if cell.place.clean_size == size]
        if cells:
            blocks += [f"### {size} clean images", *_of_size(cells, results.index.detectors)]
    blocks += [text for text in (_failures(results), _apart(results)) if text]
    return "\n\n".join(blocks) + "\n"


def _preface(results: Results) -> str:
    index, cells = results.index, results.cells
    models = {wanted.place.model: wanted.place.benign for wanted in index.planned}
    counts = Counter(models.values())
    said = (
        f"{counts[False]} backdoored models and {counts[True]} benign twins; "
        f"{index.tested} clean test images, and the same with triggers; thresholds for a false "
        f"positive rate of {index.fpr:g}. {len(cells) - len(results.failed)} of "
        f"{len(index.planned)} cells were measured."
    )
    if index.unbuilt:
        said += f" {index.unbuilt} models of the zoo are not built."
    ran = {(cell.device, cell.threads, cell.versions["torch"]) for cell in cells}
    lines = [
        f"Device {device}, torch {torch}, threads: {threads}." for device, threads, torch in ran
    ]
    return " ".join([said, *sorted(lines)])


def _of_size(cells: Sequence[Cell], detectors: Sequence[str]) -> Iterator[str]:
    each = {name: [cell for cell in cells if cell.place.detector == name] for name in detectors}
    by_detector = {name: mine for name, mine in each.items() if mine}
    yield _table_of_detectors(by_detector, ACCURACY)
    backdoored, twins = (
        {
            name: [cell for cell in mine if cell.place.benign is benign]
            for name, mine in by_detector.items()
        }
        for benign in (False, True)
    )
    yield "AUROC by attack, all inputs:"
    yield _table_of_attacks(backdoored, *ACCURACY["AUROC"])
    yield "TPR at 1 % FPR by attack:"
    yield _table_of_attacks(backdoored, *ACCURACY["TPR at 1 % FPR"])
    if any(twins.values()):
        yield "Share of inputs with a trigger that is flagged on benign twins, by attack:"
        yield _table_of_attacks(twins, *ACCURACY[STAMPED])
    if behind := _behind(backdoored):
        yield behind
    yield "Cost:"
    yield _table_of_detectors(by_detector, COST)


def _table_of_detectors(
    cells: Mapping[str, Sequence[Cell]], columns: Mapping[str, tuple[Figure, int]]
) -> str:
    rows = [
        (
            name,
            f"{sum(cell.error is None for cell in mine)} of {len(mine)}",
            *(_shown(mine, figure, digits) for figure, digits in columns.values()),
        )
        for name, mine in cells.items()
    ]
    return table(("detector", "cells", *columns), rows)


def _table_of_attacks(cells: Mapping[str, Sequence[Cell]], figure: Figure, digits: int) -> str:
    def row(name: str, chosen: Mapping[str, Sequence[Cell]]) -> tuple[str, ...]:
        return (name, *(_counted(mine, figure, digits) for mine in chosen.values()))

    rows = [row(attack, _of_attack(cells, attack)) for attack in _attacks(cells)]
    rows.append(row("**mean**", cells))
    for name, pick in (("lowest cell", min), ("highest cell", max)):
        rows.append((name, *(_extreme(mine, figure, digits, pick) for mine in cells.values())))
    return table(("attack", *cells), rows)


def _behind(cells: Mapping[str, Sequence[Cell]]) -> str:
    """The attacks on which another detector has a higher mean AUROC than ours, on models on which
    both were measured."""
    ours = BaDExpert.name
    lines = []
    for attack in _attacks(cells):
        of_attack = _of_attack(cells, attack)
        for name in (name for name in cells if name != ours):
            mine, theirs = _in_common(of_attack.get(ours, []), of_attack[name])
            one, other = summarise(mine, auroc), summarise(theirs, auroc)
            if one and other and round(other.mean, _SHOWN) > round(one.mean, _SHOWN):
                lines.append(
                    f"- {attack}: {name} {other.mean:.{_SHOWN}f}, {ours} {one.mean:.{_SHOWN}f}"
                )
    return "\n".join([f"Where {ours} is not ahead (AUROC):", "", *lines]) if lines else ""


def _in_common(one: Sequence[Cell], other: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Cells of the same models and seeds, where both have an AUROC."""
    known = [
        {(cell.place.model, cell.place.seed): cell for cell in cells if auroc(cell) is not None}
        for cells in (one, other)
    ]
    keys = known[0].keys() & known[1].keys()
    mine, theirs = ([cells[key] for key in sorted(keys)] for cells in known)
    return mine, theirs


def _failures(results: Results) -> str:
    gone: dict[tuple[str, int, str], list[str]] = {}
    for place, reason in (
        *((cell.place, cell.error or "") for cell in results.failed),
        *((place, "not reached yet") for place in results.missing),
    ):
        key = place.detector, place.clean_size, _one_line(reason)
        gone.setdefault(key, []).append(place.model)
    rows = [
        (detector, str(size), str(len(models)), _listed(sorted(set(models))), reason)
        for (detector, size, reason), models in gone.items()
    ]
    head = ("detector", "clean images", "cells", "models", "reason")
    return "Cells that could not be measured:\n\n" + table(head, rows) if rows else ""


def _listed(names: Sequence[str]) -> str:
    """Some of the names; the files of the cells have them all."""
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def _apart(results: Results) -> str:
    if not results.index.apart:
        return ""
    rows = [(name, _one_line(reason)) for name, reason in results.index.apart.items()]
    return "Models of the zoo that were left out:\n\n" + table(("model", "reason"), rows)


def _attacks(cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    return sorted({cell.place.attack for mine in cells.values() for cell in mine})


def _of_attack(cells: Mapping[str, Sequence[Cell]], attack: str) -> dict[str, list[Cell]]:
    return {
        name: [cell for cell in mine if cell.place.attack == attack] for name, mine in cells.items()
    }


def _shown(cells: Sequence[Cell], figure: Figure, digits: int) -> str:
    summary = summarise(cells, figure)
    return NOTHING if summary is None else summary.shown(digits)


def _counted(cells: Sequence[Cell], figure: Figure, digits: int) -> str:
    """With how many of the cells there are, if some are missing: a mean over fewer is another."""
    summary = summarise(cells, figure)
    if summary is None or summary.cells == len(cells):
        return _shown(cells, figure, digits)
    return f"{summary.shown(digits)} ({summary.cells} of {len(cells)})"


def _extreme(
    cells: Sequence[Cell], figure: Figure, digits: int, pick: Callable[[list[float]], float]
) -> str:
    values = [value for cell in cells if (value := figure(cell)) is not None]
    return f"{pick(values):.{digits}f}" if values else NOTHING


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def inserted(text: str, tables: str, name: str) -> str:
    """A document with the tables between the lines ``<!-- tables: NAME -->`` and ``<!-- end -->``.

    Raises:
        ConfigError: it has no such lines.
    """
    begin, end = f"<!-- tables: {name} -->\n", "<!-- end -->\n"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ConfigError(
            f"the document has no place for tables. Put the lines {begin.strip()} and "
            f"{end.strip()} where they belong"
        )
    return f"{head}{begin}\n{tables}\n{end}{tail}"


def print_or_insert(
    render: Callable[[Path], str], prog: str, about: str | None, arguments: Sequence[str] | None
) -> None:
    """Print the tables of a folder of results, or put them into a document.

    Args:
        prog, about: what ``--help`` says.
    Raises:
        ConfigError: the document has no place for them.
    """
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("folder", type=Path, help="of results, as the command wrote them")
    parser.add_argument("--into", type=Path, help="document with a place for the folder's tables")
    options = parser.parse_args(arguments)
    tables, document = render(options.folder), options.into
    if document is None:
        sys.stdout.write(tables)
    else:
        text = inserted(document.read_text(encoding="utf-8"), tables, options.folder.name)
        document.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Those of ``badexpert bench``."""
    name = "python -m badexpert.bench.tables"
    print_or_insert(lambda folder: render(Results.read(folder)), name, __doc__, arguments)


if __name__ == "__main__":
    run(main, BadExpertError)
