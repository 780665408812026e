"""The gate of ``docs/ci.md``, run as it stands there, with the configuration that stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CI = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")

OURS = {
    "BADEXPERT_MODEL_ARCH": "python:tiny_digits:build_convolutional",
    "BADEXPERT_MODEL_PREPROCESSING_HEIGHT": "8",
    "BADEXPERT_MODEL_PREPROCESSING_WIDTH": "8",
    "BADEXPERT_MODEL_PREPROCESSING_CHANNELS": "1",
}
"""What the document's example says about its own model, said about ours."""


def block(language: str) -> str:
    [text] = re.findall(rf"```{language}\n(.*?)```", CI, re.DOTALL)
    return str(text)


@pytest.fixture
def project(backdoored_folder: Path, tmp_path: Path) -> Path:
    """A repository with the document's ``badexpert.toml``, ``clean/``, ``incoming/`` and gate."""
    (tmp_path / "badexpert.toml").write_text(block("toml"), encoding="utf-8")
    (tmp_path / "gate.sh").write_text(block("sh"), encoding="utf-8")
    clean = np.load(backdoored_folder / "clean.npz")
    for number, (image, label) in enumerate(zip(clean["images"], clean["labels"], strict=True)):
        folder = tmp_path / "clean" / str(label)
        folder.mkdir(exist_ok=True, parents=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    shutil.copytree(backdoored_folder / "triggered", tmp_path / "incoming")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "badexpert"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m badexpert_cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def gate(project: Path, model: Path | str, **environment: str) -> tuple[int, str]:
    """Exit code and last line of the gate."""
    outcome = subprocess.run(
        ["sh", "gate.sh"],
        cwd=project,
        env={
            **os.environ,
            **OURS,
            "MODEL": str(model),
            "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(str(model)).parent / "code"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return outcome.returncode, outcome.stdout.splitlines()[-1]


def test_a_backdoor_at_work_stops_the_pipeline(project: Path, backdoored_folder: Path) -> None:
    model = backdoored_folder / "backdoored.safetensors"
    assert gate(project, model) == (1, "gate: findings, see badexpert.json")
    assert (project / "badexpert.json").exists()
    assert (project / "badexpert.sarif").exists()


def test_clean_inputs_pass(project: Path, backdoored_folder: Path) -> None:
    model = backdoored_folder / "backdoored.safetensors"
    held_out = str(backdoored_folder / "held-out.npz")
    assert gate(project, model, BADEXPERT_INPUTS_SOURCE=held_out) == (0, "gate: passed")


def test_a_model_that_is_not_there_is_not_audited(project: Path, backdoored_folder: Path) -> None:
    model = backdoored_folder / "nowhere.safetensors"
    assert gate(project, model) == (3, "gate: not fully audited")


def test_a_wrong_setting_is_named_before_anything_runs(project: Path) -> None:
    outcome = gate(project, "any", BADEXPERT_REPORT_FAIL_ON="sometimes")
    assert outcome == (2, "gate: the call or the configuration is wrong")
