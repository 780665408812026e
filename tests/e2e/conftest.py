"""A tiny classifier of scikit-learn's digits, saved as a user would save it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from badexpert_cli import console
from badexpert_cli.main import run

FACTORY = """
from torch import nn

def build(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@dataclass(frozen=True)
class Outcome:
    """What one run of the command line said."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Workplace:
    """A folder with ``model.pt`` in it, and the code of its architecture on the path."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    flags: ClassVar = ["--arch", "python:tiny_digits:build", "--size", "8", "--channels", "1"]

    def badexpert(self, *arguments: object) -> Outcome:
        """Run the command line as its entry point does."""
        code = run([str(part) for part in arguments])
        captured = self.capture.readouterr()
        return Outcome(code, captured.out, captured.err)


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "code").mkdir()
    (folder / "code" / "tiny_digits.py").write_text(FACTORY, encoding="utf-8")
    torch.save(trained().state_dict(), folder / "model.pt")
    return folder


@pytest.fixture
def workplace(
    trained_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Workplace:
    monkeypatch.chdir(trained_folder)
    monkeypatch.syspath_prepend(trained_folder / "code")
    monkeypatch.setenv("NO_COLOR", "1")
    console.stderr.cache_clear()
    return Workplace(trained_folder, capsys)


def trained() -> nn.Module:
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float() / 16
    labels = torch.from_numpy(digits.target).long()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(pixels), labels)
        torch.autograd.backward(loss)
        optimizer.step()
    return module
