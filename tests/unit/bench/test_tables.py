"""What a table says of cells that were made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from badexpert.bench import tables
from badexpert.bench.cells import Cell, Place
from badexpert.bench.metrics import Measurement
from badexpert.bench.plot import draw
from badexpert.bench.results import Index, Planned, Results
from badexpert.errors import ConfigError

DETECTORS = ("badexpert", "strip", "ibd-psc")


def cell(
    model: str, detector: str, auroc: float | None, *, model_seed: int = 0, error: str | None = None
) -> Cell:
    place = Place(model, "digits", "cnn", "blend", False, model_seed, detector, 100, 0)
    measured = Measurement(0.9, 0.89, 1.0, 0.1, auroc, auroc, 0.5, None, 0.5, 0.01, 0.01)
    return Cell(
        place=place,
        digest="",
        device="cpu",
        threads=1,
        versions={"torch": "2"},
        error=error,
        detection=None if error else measured,
    )


def results(*cells: Cell, apart: dict[str, str] | None = None, unbuilt: int = 0) -> Results:
    planned = tuple(Planned(found.place, "") for found in cells)
    return Results(Index(DETECTORS, (100,), 0.01, 300, planned, apart or {}, unbuilt), cells, ())


def rows_of(text: str, name: str) -> list[str]:
    return re.findall(rf"^\| {re.escape(name)} \|.*$", text, re.MULTILINE)


@pytest.fixture
def two_models() -> Results:
    """IBD-PSC works on the second model only, where all is easy."""
    return results(
        cell("first", "badexpert", 0.90),
        cell("first", "strip", 0.95),
        cell("first", "ibd-psc", None, error="no batch-norm | none at all"),
        cell("second", "badexpert", 1.0, model_seed=1),
        cell("second", "strip", 0.80, model_seed=1),
        cell("second", "ibd-psc", 0.99, model_seed=1),
    )


def test_a_mean_over_fewer_models_says_so(two_models: Results) -> None:
    [row] = rows_of(tables.render(two_models), "blend")[:1]
    assert row == "| blend | 0.9500 ± 0.0707 | 0.8750 ± 0.1061 | 0.9900 (1 of 2) |"


def test_whoever_is_ahead_is_named_where_both_were_measured(two_models: Results) -> None:
    assert "not ahead" not in tables.render(two_models), "0.99 against 1.0, on the same model"
    behind = results(
        cell("first", "badexpert", 0.9), cell("first", "strip", 0.95), cell("first", "ibd-psc", 0.8)
    )
    assert "- blend: strip 0.9500, badexpert 0.9000\n" in tables.render(behind)
    assert "- blend: ibd-psc" not in tables.render(behind)


def test_a_reason_does_not_break_the_table(two_models: Results) -> None:
    [row] = re.findall(r"^\| ibd-psc \| 100 \|.*$", tables.render(two_models), re.MULTILINE)
    assert row == r"| ibd-psc | 100 | 1 | first | no batch-norm \| none at all |"


def test_models_that_were_left_out_are_named() -> None:
    text = tables.render(
        results(cell("first", "badexpert", 0.9), apart={"weak": "it did\nnot take"}, unbuilt=7)
    )
    assert "| weak | it did not take |" in text
    assert "7 models of the zoo are not built" in text


def test_a_picture_is_drawn_where_a_detector_failed_everywhere(tmp_path: Path) -> None:
    found = results(
        cell("first", "badexpert", 0.9), cell("first", "ibd-psc", None, error="no batch-norm")
    )
    draw(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_tables_take_the_place_of_older_ones_in_a_document() -> None:
    document = "# A\n<!-- tables: one -->\n\nold\n\n<!-- end -->\nafter\n"
    new = tables.inserted(document, "new\n", "one")
    assert new == "# A\n<!-- tables: one -->\n\nnew\n\n<!-- end -->\nafter\n"
    assert tables.inserted(new, "new\n", "one") == new
    with pytest.raises(ConfigError, match="no place for tables"):
        tables.inserted(document, "new\n", "two")
