"""A tiny classifier of scikit-learn's digits, saved as a user would save it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from badexpert_cli import console
from badexpert_cli.main import run
from tests import small_models

FACTORY = """
from torch import nn

def build(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def build_convolutional(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, num_classes),
    )
"""


@dataclass(frozen=True)
class Outcome:
    """What one run of the command line said."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Workplace:
    """A folder of models and images, with the code of their architectures on the path.

    ``model.pt`` is linear and benign; ``backdoored.safetensors`` answers a patch with class 0.
    ``clean.npz`` holds labelled images that no model was trained on, ``held-out.npz`` more of them
    without labels, and ``triggered/`` images with the patch.
    """

    folder: Path
    capture: pytest.CaptureFixture[str]

    flags: ClassVar = ["--arch", "python:tiny_digits:build", "--size", "8", "--channels", "1"]
    arch: ClassVar = ["--arch", "python:tiny_digits:build_convolutional"]
    backdoored: ClassVar = [
        *("backdoored.safetensors", *arch, "--size", "8", "--channels", "1"),
        *("--clean", "clean.npz"),
    ]

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


@pytest.fixture(scope="session")
def backdoored_folder(trained_folder: Path) -> Path:
    model = small_models.backdoored()
    weights = {key: value.contiguous() for key, value in model.suspect.module.state_dict().items()}
    save_file(weights, trained_folder / "backdoored.safetensors")
    clean, held_out = model.digits.clean, model.digits.test
    np.savez(trained_folder / "clean.npz", images=clean.pixels[:, 0], labels=clean.labels)
    np.savez(trained_folder / "held-out.npz", images=held_out.pixels[:, 0])
    (trained_folder / "triggered").mkdir()
    for number, image in enumerate((model.triggered[:90, 0] * 255).round().byte().numpy()):
        Image.fromarray(image).save(trained_folder / "triggered" / f"{number:03}.png")
    return trained_folder


@pytest.fixture
def victim(backdoored_folder: Path, workplace: Workplace) -> Workplace:
    """The workplace with the backdoored model in it."""
    return workplace


@pytest.fixture(scope="session")
def bundle(backdoored_folder: Path) -> Path:
    """What ``extract`` leaves of the backdoored model; made once, by the command itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(backdoored_folder)
        patch.syspath_prepend(backdoored_folder / "code")
        patch.setenv("NO_COLOR", "1")
        assert run(["extract", *Workplace.backdoored, "-o", "bundle"]) == 0
    return backdoored_folder / "bundle"


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
