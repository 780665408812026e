"""``import badexpert as bx``: every promised name is there, and nothing heavy comes with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import badexpert as bx


@pytest.mark.parametrize("name", bx.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(bx, name) is not None
    assert name in dir(bx)


def test_names_for_type_checkers_are_those_for_users() -> None:
    [block] = [
        node
        for node in ast.parse(Path(str(bx.__file__)).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    homes = {name.name: node.module for node in imports for name in node.names}
    assert sorted([*homes, "__version__"]) == sorted(bx.__all__)
    for name, home in homes.items():
        assert f"badexpert.{bx._HOMES[name]}" == home


def test_names_survive_the_import_of_every_module() -> None:
    """A module of the same name would take a function's place."""
    for home in set(bx._HOMES.values()):
        __import__(f"badexpert.{home}")
    assert not [name for name in bx.__all__ if type(getattr(bx, name)) is type(ast)]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bx.nonsense


def test_importing_the_package_and_its_plain_types_loads_no_torch() -> None:
    code = (
        "import sys, badexpert as bx; bx.Verdict, bx.ScanConfig, bx.Preprocessing, bx.__version__;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
