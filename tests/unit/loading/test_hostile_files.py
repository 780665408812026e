"""Every hostile file is refused with its reason, and would really have done its harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from badexpert.errors import ModelLoadError, UnsafeModelError
from badexpert.loading import load_suspect
from badexpert.loading.checkpoint import read_file
from tests.hostile import ATTACKS, MARKER, write

DETONATING = [name for name, attack in ATTACKS.items() if attack.detonate is not None]


@pytest.fixture(scope="module")
def detonated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every attack was set off, in a process of its own."""
    root = tmp_path_factory.mktemp("detonated")
    subprocess.run(
        [sys.executable, "-m", "tests.hostile", str(root)],
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )
    return root


@pytest.mark.parametrize("name", DETONATING)
def test_the_attack_is_real(name: str, detonated: Path) -> None:
    assert (detonated / name / MARKER).is_dir()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_refused_and_the_reason_named(name: str, tmp_path: Path) -> None:
    path = write(name, tmp_path)
    with pytest.raises(ModelLoadError) as refusal:
        read_file(path)
    for words in ATTACKS[name].says:
        assert words in str(refusal.value)
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", ["zip", "legacy", "pickle", "second pickle", "zip in zip"])
def test_a_file_that_would_run_code_is_called_unsafe(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError):
        read_file(write(name, tmp_path))


def test_the_front_door_refuses_too(tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError, match="os.mkdir"):
        load_suspect(write("zip", tmp_path), arch="timm:resnet18")
    assert not (tmp_path / MARKER).exists()
