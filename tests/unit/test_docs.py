"""What the documents promise: settings that exist, files that parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from badexpert.settings import resolve
from badexpert_cli.exits import ExitCode

DOCS = Path(__file__).parents[2] / "docs"
CI = (DOCS / "ci.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_explained(code: ExitCode) -> None:
    assert re.search(rf"^\| {code.value} \|", CI, re.MULTILINE)
