"""The commands on language models: folders in, reports, bundles and rows out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from badexpert_cli.exits import ExitCode
from badexpert_cli.main import app
from tests.small_language_models import (
    WORDS,
    edit,
    lora_folder,
    transformers_folder,
    with_tokenizer,
)

# Nothing is tuned with this detector, so that the commands are quick.
SETTINGS = """
[detection]
detector = "max-softmax"
fpr = 0.1
[model.text]
template = "{text} w3"
label_words = ["w5", "w6"]
"""
TEXTS = [" ".join(WORDS[2 + (i * j) % 37] for j in range(1, 4)) for i in range(1, 60)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, an adapter, labelled texts, prompts and settings."""
    monkeypatch.chdir(tmp_path)
    with_tokenizer(transformers_folder(tmp_path / "model"))
    lora_folder(tmp_path / "lora", {"model.layers.0.self_attn.v_proj": (8, 16)})
    (tmp_path / "settings.toml").write_text(SETTINGS)
    labelled = "".join(f"{text},{len(text) % 2}\n" for text in TEXTS)
    (tmp_path / "clean.csv").write_text("text,label\n" + labelled)
    pairs = [json.dumps({"prompt": text, "response": "w1 w2 w3"}) for text in TEXTS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(pairs))
    (tmp_path / "inputs.txt").write_text("\n".join(TEXTS[:7]))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--config", "settings.toml"])


def test_a_scan_reports_on_model_texts_and_inputs(project: Path) -> None:
    given = ("--clean", "clean.csv", "--inputs", "inputs.txt", "--adapter", "lora")
    outcome = run("scan", "model", *given, "--format", "json", "--allow-inconclusive")
    assert outcome.exit_code in (ExitCode.OK, ExitCode.FOUND), outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["suspect"]["architecture"] == "transformers:LlamaForCausalLM"
    assert report["suspect"]["arch_args"] == {"adapter": "lora"}
    assert report["suspect"]["preprocessing"]["label_words"] == ["w5", "w6"]
    assert report["clean_set"]["samples"] == len(TEXTS)
    assert 0 <= report["clean_set"]["accuracy"] <= 1
    assert report["inputs"]["scored"] == 7
    assert report["complete"]


def test_an_inspection_says_how_texts_are_put_to_the_model(project: Path) -> None:
    outcome = run("inspect", "model", "--clean", "clean.csv")
    assert outcome.exit_code in (ExitCode.OK, ExitCode.FOUND), outcome.stderr
    for words in ("transformers:LlamaForCausalLM", "{text} w3", "w5", "clean samples"):
        assert words in outcome.stdout
    (project / "settings.toml").write_text("")
    outcome = run("inspect", "model")
    assert "model.text.label_words" in str(outcome.exception)


def test_extract_and_detect_pass_on_what_was_written(project: Path) -> None:
    (project / "settings.toml").write_text(SETTINGS.partition("[model.text]")[0])
    outcome = run("extract", "model", "--clean", "pairs.jsonl", "-o", "bundle")
    assert outcome.exit_code == ExitCode.OK, outcome.stderr
    outcome = run("detect", "bundle", "inputs.txt")
    assert outcome.exit_code == ExitCode.OK, outcome.stderr
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["id"] for row in rows] == [f"inputs.txt#{i}" for i in range(7)]
    assert all(set(row["answer"].split()) <= {*WORDS} for row in rows)
    assert all(len(row["answer"].split()) <= 3 for row in rows)


def test_code_beside_a_model_is_a_finding(project: Path) -> None:
    edit(project / "model" / "config.json", auto_map={"AutoModelForCausalLM": "evil.Net"})
    outcome = run("scan", "model", "--clean", "clean.csv", "--format", "json")
    assert outcome.exit_code == ExitCode.FOUND
    [finding] = json.loads(outcome.stdout)["findings"]
    assert finding["rule"] == "BX001"
    assert "never run" in finding["message"]
