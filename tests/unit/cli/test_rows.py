from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from badexpert.errors import ConfigError
from badexpert_cli.outputs import Target
from badexpert_cli.rows import COLUMNS, open_rows

IDENTITY = {"suspect": "abc", "inputs": "incoming/", "detector": "badexpert"}


def row(number: int) -> dict[str, Any]:
    return {"id": f"{number}.png", "score": 0.5, "p_value": 0.1, "flagged": False, "answer": 3}


def score(
    target: Target, stop: int, *, total: int = 5, resume: bool | None = False, **identity: str
) -> int:
    """Score inputs up to ``stop``, like a run that is interrupted there; how many it skipped."""
    with open_rows(target, belongs_to={**IDENTITY, **identity}, resume=resume) as rows:
        for number in range(rows.done, total):
            if number == stop:
                raise KeyboardInterrupt
            rows.write(row(number))
        return rows.done


def ids(path: Path, format: str) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        if format == "csv":
            return [line["id"] for line in csv.DictReader(file)]
        return [json.loads(line)["id"] for line in file]


@pytest.mark.parametrize("format", ["json", "csv"])
def test_rows_can_be_read_back(tmp_path: Path, format: str) -> None:
    target = Target(format, tmp_path / "out")
    score(target, stop=9)
    assert ids(tmp_path / "out", format) == [f"{number}.png" for number in range(5)]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.run.json"}


@pytest.mark.parametrize("format", ["json", "csv"])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, format: str) -> None:
    target = Target(format, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        score(target, stop=3)
    assert not (tmp_path / "out").exists()
    with (tmp_path / "out.partial").open("a", encoding="utf-8") as file:
        file.write('{"id": "half of a r')
    assert score(target, stop=9, resume=True) == 3
    assert ids(tmp_path / "out", format) == [f"{number}.png" for number in range(5)]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.run.json"}


def test_without_resume_a_run_starts_again(tmp_path: Path) -> None:
    target = Target("json", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        score(target, stop=3)
    assert score(target, stop=9) == 0
    assert len(ids(tmp_path / "out", "json")) == 5


@pytest.mark.parametrize("format", ["json", "csv"])
def test_a_finished_run_is_not_run_again(tmp_path: Path, format: str) -> None:
    target = Target(format, tmp_path / "out")
    score(target, stop=9)
    before = (tmp_path / "out").read_bytes()
    with open_rows(target, belongs_to=IDENTITY, resume=True) as rows:
        assert rows.whole
        assert (rows.tally.scored, rows.tally.unreadable) == (5, 0)
        with pytest.raises(ValueError, match="no more rows"):
            rows.write(row(5))
    assert (tmp_path / "out").read_bytes() == before


def test_a_finished_run_of_another_model_is_not_taken_for_this_one(tmp_path: Path) -> None:
    target = Target("json", tmp_path / "out")
    score(target, stop=9)
    with pytest.raises(ConfigError, match="belongs to another run"):
        score(target, stop=9, resume=True, suspect="other")
    (tmp_path / "out.run.json").unlink()
    with pytest.raises(ConfigError, match="exists already, and no out.run.json beside it"):
        score(target, stop=9, resume=True)
    assert len(ids(tmp_path / "out", "json")) == 5


def test_a_second_run_that_is_interrupted_leaves_the_first_ones_file(tmp_path: Path) -> None:
    target = Target("json", tmp_path / "out")
    score(target, stop=9)
    with pytest.raises(KeyboardInterrupt):
        score(target, stop=2)
    assert len(ids(tmp_path / "out", "json")) == 5
    assert score(target, stop=9, resume=True) == 2
    assert len(ids(tmp_path / "out", "json")) == 5


def test_nothing_to_resume_is_a_first_run(tmp_path: Path) -> None:
    assert score(Target("json", tmp_path / "out"), stop=9, resume=True) == 0


def test_rows_of_another_model_are_never_mixed_in(tmp_path: Path) -> None:
    target = Target("json", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        score(target, stop=3)
    with pytest.raises(ConfigError, match="belongs to another run"):
        score(target, stop=9, resume=True, suspect="other")
    assert (tmp_path / "out.partial").exists()


def test_stdout_takes_rows_and_cannot_be_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    score(Target("csv"), stop=9, total=1)
    assert capsys.readouterr().out == ",".join(COLUMNS) + "\n0.png,0.5,0.1,false,3,\n"
    with pytest.raises(ConfigError, match="say which with -o"):
        score(Target("csv"), stop=9, resume=True)


@pytest.mark.parametrize("format", ["json", "csv"])
def test_a_row_is_one_line_whatever_a_file_is_called(
    capsys: pytest.CaptureFixture[str], format: str
) -> None:
    with open_rows(Target(format), belongs_to=IDENTITY, resume=False) as rows:
        rows.write({"id": 'a\nb\r"c",\udcff.png', "error": "broken"})
    text = capsys.readouterr().out
    text.encode("utf-8")
    assert len(text.splitlines()) == (1 if format == "json" else 2)


@pytest.mark.parametrize("format", ["json", "csv"])
def test_counts_include_the_rows_of_the_interrupted_run(tmp_path: Path, format: str) -> None:
    target = Target(format, tmp_path / "out")
    torn = {"id": "torn, or so.png", "error": "truncated, no end"}
    flagged = {**row(1), "flagged": True}

    def part(*written: dict[str, Any], resume: bool) -> tuple[int, int, int]:
        with open_rows(target, belongs_to=IDENTITY, resume=resume) as rows:
            for item in written:
                rows.write(item)
            if not resume:
                raise KeyboardInterrupt
        return rows.tally.scored, rows.tally.flagged, rows.tally.unreadable

    with pytest.raises(KeyboardInterrupt):
        part(flagged, torn, row(2), resume=False)
    assert part(flagged, row(3), resume=True) == (4, 2, 1)


def test_a_header_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    target = Target("csv", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        score(target, stop=0)
    partial = tmp_path / "out.partial"
    partial.write_bytes(partial.read_bytes()[:5])
    assert score(target, stop=9, resume=True) == 0
    assert ids(tmp_path / "out", "csv") == [f"{number}.png" for number in range(5)]


@pytest.mark.parametrize(
    ("resume", "stop", "said"),
    [(False, 3, "--resume goes on from there"), (None, 3, "out.partial"), (False, 0, "")],
)
def test_an_interrupted_run_says_what_is_left_and_how_to_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, resume: bool | None, stop: int, said: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(Target("json", tmp_path / "out"), stop=stop, resume=resume)
    assert caplog.text.rstrip().endswith(said)
    assert bool(caplog.records) is bool(stop)
