"""docs/architecture.md speaks of files and names that exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`((?:badexpert|cli|moe_core|configs|tests)/[\w/.]*)`", TEXT)))
CATALOGUES = re.findall(r"`([A-Z]+)` in `(badexpert/\w+)(?:/__init__)?\.py`", TEXT)


@pytest.mark.parametrize("place", PLACES)
def test_a_named_place_exists(place: str) -> None:
    assert (ROOT / place).exists()


def test_every_package_of_the_library_is_named() -> None:
    packages = {path.parent.name for path in (ROOT / "badexpert").glob("*/__init__.py")}
    assert {f"badexpert/{name}/" for name in packages} <= set(PLACES)


@pytest.mark.parametrize(("name", "module"), CATALOGUES)
def test_a_named_catalogue_is_a_dictionary(name: str, module: str) -> None:
    assert isinstance(getattr(import_module(module.replace("/", ".")), name), dict)


def test_all_catalogues_are_named() -> None:
    assert {name for name, _ in CATALOGUES} >= {"ATTACKS", "DETECTORS", "AUDITS", "SOURCES"}
