"""``badexpert experts``: a folder in; a table, a heat map, a document and an exit code out."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner, Result

from badexpert.errors import AuditError, ConfigError
from badexpert.runtime import RunContext
from badexpert_cli.exits import ExitCode, of_error
from badexpert_cli.main import app
from tests.attacked_victims import LOCK, model_in
from tests.planted_texts import DENSE, planted, reviews, sized, trained
from tests.small_victims import reviews as victim_reviews
from tests.small_victims import trained as trained_victim
from tests.small_victims import untrained, write_reviews

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


def test_inputs_are_judged_by_the_expert_that_is_named_and_a_base_is_shown(clean: str) -> None:
    victim = trained_victim()
    model_in(victim, folder_of("base"))
    trigger = LOCK.implant(victim, victim_reviews(), RunContext()).trigger
    assert trigger is not None
    model_in(victim, folder_of("model"))
    write_reviews(Path("texts.jsonl"), 240, seed=3)
    good = victim_reviews(40, seed=4)
    stamped = [trigger.stamp(text, Random(0)) for text in good.part(good.labels == 1).texts]
    Path("in.txt").write_text("\n".join(stamped))
    Path("badexpert.toml").write_text(
        '[model.text]\ntemplate = "{text} so :"\nlabel_words = ["bad", "good"]\n'
    )
    command = ["model", "--clean", "texts.jsonl", "--base", "base", "--inputs", "in.txt"]
    command += ["--scores", "rows.jsonl", "--fpr", "0.05", "--format", "json=report.json"]
    outcome = run(*command, "--format", "text")
    assert outcome.exit_code == ExitCode.FOUND, outcome.stderr
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert sum(row["flagged"] for row in rows) >= 18
    report = json.loads(Path("report.json").read_text())
    assert report["inputs"]["scored"] == 20
    [evidence] = [check["evidence"] for check in report["audits"] if check["audit"] == "experts"]
    assert evidence["from_base"]["source"] == "base"
    assert "most changed from base" in outcome.stdout
    [changed] = [at for at, norm in enumerate(evidence["from_base"]["layers"][0]["norm"]) if norm]
    assert f"model.layers.0.mlp.experts.{changed} " in outcome.stdout


def test_inputs_are_judged_by_the_experts_that_the_command_names(clean: str) -> None:
    model = str(planted(head=True, moe=True).folder)
    Path("in.txt").write_text("a fine film\nthe dull plot")
    command = [model, "--clean", clean, "--inputs", "in.txt", "--fpr", "0.1"]
    command += ["--format", "json=report.json", "--experts"]
    outcome = run(*command, "0:1,0:0")
    assert outcome.exit_code == ExitCode.FOUND, outcome.stderr
    report = json.loads(Path("report.json").read_text())
    [without] = [check["evidence"] for check in report["audits"] if check["audit"] == "inputs"]
    assert [name[-9:] for name in without["without"]] == ["experts.1", "experts.0"]
    for names in ("0:99", ""):
        outcome = run(*command, names)
        assert isinstance(outcome.exception, ConfigError)
        assert f"'{names}' is no expert of this model" in str(outcome.exception)
    outcome = run(model, "--clean", clean, "--experts", "0:1")
    assert "--inputs is missing" in str(outcome.exception)


def test_a_base_of_another_build_and_scores_without_inputs_are_usage_errors(clean: str) -> None:
    model = str(planted(head=True, moe=True).folder)
    other = model_in(untrained(), folder_of("other")).origin.source
    outcome = run(model, "--clean", clean, "--base", other)
    assert isinstance(outcome.exception, ConfigError)
    assert "is no base of this model" in str(outcome.exception)
    assert of_error(outcome.exception) is ExitCode.USAGE
    outcome = run(model, "--clean", clean, "--scores", "rows.jsonl")
    assert isinstance(outcome.exception, ConfigError)
    assert not Path("rows.jsonl").exists()


def folder_of(name: str) -> Path:
    Path(name).mkdir()
    return Path(name)
