from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from badexpert.runtime import Step
from badexpert_cli import console


@pytest.fixture(autouse=True)
def _fresh_console(monkeypatch: pytest.MonkeyPatch) -> None:
    console.stderr.cache_clear()
    monkeypatch.delenv("CI", raising=False)


def test_the_log_goes_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    logging.getLogger("badexpert.anything").info("a fact")
    logging.getLogger("badexpert.anything").warning("a danger")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "a fact\nwarning: a danger\n"


@pytest.mark.parametrize(
    ("quiet", "verbose", "expected"),
    [
        (True, False, "warning: c\n"),
        (False, False, "b\nwarning: c\n"),
        (False, True, "a\nb\nwarning: c\n"),
    ],
)
def test_quiet_and_verbose(
    capsys: pytest.CaptureFixture[str], quiet: bool, verbose: bool, expected: str
) -> None:
    console.configure(quiet=quiet, verbose=verbose)
    log = logging.getLogger("badexpert.anything")
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert capsys.readouterr().err == expected


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    logging.getLogger("badexpert").info("word " * 60)
    assert capsys.readouterr().err.count("\n") == 1


def test_hostile_names_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    logging.getLogger("badexpert").info("layer \x1b[2J\x9b31m [bold]x[/bold] \udcff ä")
    assert capsys.readouterr().err == "layer \\x1b[2J\\x9b31m [bold]x[/bold] \\udcff ä\n"


def test_without_a_terminal_each_task_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    with console.progress() as progress:
        for done in range(3):
            progress(Step("tune the expert", done, 3))
        progress(Step("score", 1, None))
    assert capsys.readouterr().err == "tune the expert\nscore\n"


@pytest.mark.parametrize(("ci", "quiet", "bars"), [("", False, True), ("1", False, False)])
def test_bars_only_where_somebody_watches(
    monkeypatch: pytest.MonkeyPatch, ci: str, quiet: bool, bars: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", ci)
    console.configure(quiet=quiet)
    assert console.shows_bars() is bars


def test_bars_show_every_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    console.configure()
    with console.progress() as progress:
        progress(Step("tune", 1, 3, note="lr 0.1"))
        progress(Step("tune", 3, 3, note="lr 0.2"))
    captured = capsys.readouterr()
    assert "tune" in captured.err
    assert captured.out == ""


def test_a_reader_that_leaves_early_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        console.write_document("x" * 100_000)
        console.write_document("more")
