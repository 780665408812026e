"""The Triton programs run on the CPU, in a process of their own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is for Linux")
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
