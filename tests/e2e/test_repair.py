"""``badexpert repair``: a folder in; a repaired folder, a table and a document out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from badexpert.errors import ConfigError
from badexpert.loading.language import load_language_model
from badexpert_cli.exits import ExitCode, of_error
from badexpert_cli.main import app
from moe_core.view import ExpertView
from tests.locked_models import locked


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    template = locked()[1].reading.template
    Path("badexpert.toml").write_text(f'[model.text]\ntemplate = "{template}"\n')
    yield
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def run(*arguments: str) -> Result:
    folder, truth = locked()
    [expert] = truth.experts
    named = ["--experts", f"{expert.layer}:{expert.expert}"]
    clean = ["--clean", str(folder / "clean.jsonl")]
    return CliRunner().invoke(app, ["repair", str(folder), *named, *clean, *arguments])


def with_trigger() -> list[str]:
    return ["--triggered", str(locked()[0] / "triggered.jsonl"), "--target", "bad"]


def test_the_repaired_folder_stands_beside_a_table_and_a_document() -> None:
    documents = ["--format", "text", "--format", "json=repair.json"]
    outcome = run("-o", "out", *with_trigger(), *documents)
    assert outcome.exit_code == ExitCode.OK, outcome.stderr
    document = json.loads(Path("repair.json").read_text())
    assert document["before"]["attack_success_rate"] == 1.0
    assert document["after"]["attack_success_rate"] == 0.0
    [name] = document["experts"]
    assert name in outcome.stdout
    rows = [line.split() for line in outcome.stdout.splitlines() if "repaired  " in line]
    assert [row[-1] for row in rows] == ["0.000"]
    model = load_language_model("out")
    assert model.origin.sha256 == document["written"]["sha256"]
    [expert] = locked()[1].experts
    assert not ExpertView.of(model.backbone.module).expert(expert)["down_proj"].any()


def test_a_repair_that_does_not_help_is_said_to_fail() -> None:
    outcome = run("-o", "out", *with_trigger(), "--experts", "1:1")
    assert outcome.exit_code == ExitCode.OK
    assert "the trigger still works" in outcome.stderr


def test_without_a_trigger_only_accuracy_is_measured() -> None:
    outcome = run("-o", "out", "--way", "mean", "--limit", "40")
    assert outcome.exit_code == ExitCode.OK, outcome.stderr
    assert "clean accuracy" in outcome.stdout
    assert "attack" not in outcome.stdout


def test_the_repaired_model_is_audited_like_any_other() -> None:
    assert run("-o", "out").exit_code == ExitCode.OK
    clean = str(locked()[0] / "clean.jsonl")
    looked = CliRunner().invoke(app, ["inspect", "out", "--clean", clean, "--format", "json"])
    accuracy = json.loads(looked.stdout)["clean_set"]["accuracy"]
    assert accuracy >= 0.95


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--triggered", "some.jsonl"], "go together"),
        (["--target", "bad"], "go together"),
        (["--way", "median"], "no way of repair"),
        (["--experts", "0:77"], "no expert of this model"),
        (["--format", "sarif"], "unknown"),
        (["-o", "."], "exists already"),
    ],
)
def test_what_was_asked_wrongly_leaves_nothing_behind(arguments: list[str], said: str) -> None:
    outcome = run("-o", "out", *arguments)
    assert isinstance(outcome.exception, ConfigError)
    assert said in str(outcome.exception)
    assert of_error(outcome.exception) is ExitCode.USAGE
    assert not Path("out").exists()


def test_the_suspects_own_folder_is_never_written_to() -> None:
    folder = locked()[0]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    outcome = run("-o", str(folder))
    assert isinstance(outcome.exception, ConfigError)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
