"""The Triton programs run on the CPU, in a process of their own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def cannot_run() -> str | None:
    """Why not; None if the interpreter is there and works."""
    if importlib.util.find_spec("triton") is None:
        return "triton is for Linux"
    triton, numpy = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 4):
        return "this version of Triton's interpreter needs numpy below 2.4"
    return None


@pytest.mark.skipif(cannot_run() is not None, reason=str(cannot_run()))
def test_the_programs_pass_their_tests_in_the_interpreter(
    record_property: pytest.RecordProperty,
) -> None:
    command = [sys.executable, "-m", "pytest", "tests/kernels", "-q", "--show-capture=no"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed
    record_property("interpreted", int(passed[1]))
