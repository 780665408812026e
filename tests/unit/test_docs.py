"""What the documents promise: settings that exist, files that parse."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import badexpert as bx
from badexpert.errors import CleanSetError, ModelLoadError
from badexpert.settings import resolve
from badexpert_cli.exits import ExitCode
from badexpert_cli.main import app

ROOT = Path(__file__).parents[2]
CI = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [text] = re.findall(rf"```{language}\n(.*?)```", CI, re.DOTALL)
    return str(text)


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "badexpert.toml").write_text(block("toml"), encoding="utf-8")
    config = resolve({}, environment={}, folder=tmp_path).config
    assert config.report.fail_on == "high"
    assert len(config.ignore) == 1


def test_the_workflow_uploads_also_after_a_failure() -> None:
    [job] = yaml.safe_load(block("yaml"))["jobs"].values()
    upload = job["steps"][-1]
    assert upload["uses"].startswith("github/codeql-action/upload-sarif@")
    assert upload["if"] == "always()"
    assert f"sarif={upload['with']['sarif_file']}" in block("toml")


@pytest.mark.parametrize("document", [CI, README], ids=["ci", "readme"])
@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_explained(code: ExitCode, document: str) -> None:
    assert re.search(rf"^\| {code.value} \|", document, re.MULTILINE)


def test_the_example_in_python_uses_names_that_exist() -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {
        node.attr
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "bx"
    }
    assert len(names) > 5
    assert names <= set(bx.__all__)


@pytest.mark.parametrize("command", re.findall(r"^badexpert .*$", README, re.MULTILINE))
def test_commands_of_the_readme_are_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are parsed as they stand; the model that they name is not there."""
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, shlex.split(command)[1:])
    assert isinstance(outcome.exception, ModelLoadError | CleanSetError)


def test_make_knows_the_commands_of_the_readme() -> None:
    targets = re.findall(
        r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {"demo", "test"} <= set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= set(targets)
