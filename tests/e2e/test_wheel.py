"""The wheel installs and runs, away from the checkout."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from badexpert.version import VERSION

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "badexpert", "moe_core", "cli")

LOCATE = """
import badexpert_cli, badexpert, moe_core
from badexpert.report.json import schema
print(badexpert_cli.__file__, badexpert.__file__, moe_core.__file__, sep="\\n")
assert schema()["type"] == "object"
"""


def run(*command: object, folder: Path) -> str:
    outcome = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def pip(*arguments: object, folder: Path) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, folder=folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", out, source, folder=out)
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it that borrows the dependencies installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pip("--python", folder / "bin" / "python", "install", "--no-deps", wheel, folder=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return folder


def test_the_installed_command_runs(environment: Path, tmp_path: Path) -> None:
    command = environment / "bin" / "badexpert"
    assert run(command, "--version", folder=tmp_path) == f"badexpert {VERSION}\n"
    assert "Exit codes" in run(command, "--help", folder=tmp_path)


def test_packages_and_data_come_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    files = run(environment / "bin" / "python", "-c", LOCATE, folder=tmp_path).splitlines()
    assert len(files) == 3
    assert all(file.startswith(str(environment)) for file in files)


def test_the_wheel_holds_nothing_named_cli(environment: Path) -> None:
    [packages] = environment.glob("lib/python*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {"badexpert", "badexpert_cli", "moe_core"} < names
    assert not {"cli", "tests"} & names


def test_the_checkout_runs_as_a_module() -> None:
    assert run(sys.executable, "-m", "cli", "--version", folder=ROOT) == f"badexpert {VERSION}\n"


@pytest.mark.slow
def test_the_wheel_brings_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    """Into an empty environment, over the network."""
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, folder=tmp_path)
    code = "import torch, timm, sklearn, badexpert.report, badexpert_cli.main"
    run(python, "-c", code, folder=tmp_path)
