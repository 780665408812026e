"""How a benchmark ends that is run as a program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_core.bench.program import run


class UnfitError(Exception):
    """Of what was given."""


def raising(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code"),
    [
        (lambda: None, None),
        (lambda: 1, 1),
        (raising(KeyboardInterrupt()), 130),
        (raising(UnfitError()), 3),
        (raising(PermissionError()), 3),
    ],
)
def test_its_exit_code(main: Callable[[], int | None], code: int | None) -> None:
    with pytest.raises(SystemExit) as stop:
        run(main, UnfitError)
    assert stop.value.code == code


def test_what_was_not_foreseen_is_shown_whole() -> None:
    with pytest.raises(UnfitError):
        run(raising(UnfitError()))


def test_what_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    names = ["--train", "absent.npz", "--test", "absent.npz", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "badexpert.bench.accuracy", *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "absent.npz" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
