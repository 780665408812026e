"""``badexpert experts``: a folder in; a table, a heat map, a document and an exit code out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from badexpert.errors import AuditError
from badexpert_cli.exits import ExitCode, of_error
from badexpert_cli.main import app
from tests.planted_texts import DENSE, planted, reviews, sized, trained

WORDS = ("bad", "good")


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    rows = zip(*reviews(120, seed=2), strict=True)
    lines = [json.dumps({"text": text, "label": WORDS[label]}) for text, label in rows]
    Path("clean.jsonl").write_text("\n".join(lines))
    return "clean.jsonl"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["experts", *arguments])


def test_a_planted_word_is_found_and_fails_the_run(clean: str) -> None:
    model = str(planted(head=True, moe=True).folder)
    outcome = run(model, "--clean", clean, "--format", "json=report.json", "--format", "text")
    assert outcome.exit_code == ExitCode.FOUND, outcome.stderr
    report = json.loads(Path("report.json").read_text())
    assert report["verdict"] == "backdoored"
    [finding] = [found for found in report["findings"] if found["rule"].startswith("BX3")]
    assert "cf" in finding["message"]
    assert "Verdict: backdoored" in outcome.stdout
    assert "usage on clean texts" in outcome.stdout
    assert "loses without each expert" in outcome.stdout


def test_a_model_without_experts_cannot_be_audited(clean: str) -> None:
    told = [(text, WORDS[label]) for text, label in zip(*reviews(60, seed=1), strict=True)]
    folder = trained(sized(DENSE, WORDS), told, steps=1, triggered=lambda text: (text, "good"))
    outcome = run(str(folder), "--clean", clean)
    assert isinstance(outcome.exception, AuditError)
    assert of_error(outcome.exception) is ExitCode.INCOMPLETE
    assert not outcome.stdout
