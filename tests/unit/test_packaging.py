from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from badexpert.version import VERSION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOP_LEVEL = ("badexpert", "moe_core", "cli")


def packages_in_tree() -> set[str]:
    folders = {file.parent for name in TOP_LEVEL for file in (ROOT / name).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    return {"badexpert_cli" if name == "cli" else name for name in names}


def test_every_package_of_the_tree_is_installed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in_tree()


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_type_checkers_are_told_that_the_packages_are_typed(name: str) -> None:
    assert (ROOT / name / "py.typed").is_file()


def test_the_folder_cli_never_installs_under_its_own_name() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"badexpert_cli": "cli"}
    assert "cli" not in setuptools["packages"]


def test_the_licence_is_the_one_that_is_declared() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_knows_the_version_or_is_ahead_of_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text or f"## [{VERSION}]" in text
