"""Ctrl-C in the middle: exit 130, no traceback, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEPER = """
import pathlib, time

def build(**arguments):
    pathlib.Path("started").touch()
    time.sleep(60)
"""


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_in_the_middle(trained_folder: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "sleeper.py").write_text(SLEEPER, encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    command = [
        *(sys.executable, "-m", "badexpert_cli", "inspect", str(trained_folder / "model.pt")),
        *("--arch", "python:sleeper:build", "--format", "json=report.json"),
    ]
    process = subprocess.Popen(
        command,
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(code)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(work / "started", process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert [path.name for path in work.iterdir()] == ["started"]
