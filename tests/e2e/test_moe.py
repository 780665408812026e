"""``badexpert moe`` from the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from badexpert_cli import console
from badexpert_cli.main import run
from tests.small_decoders import LICENSE

RECIPE = """
[model]
dim = 16
num_layers = 1
num_heads = 2
num_kv_heads = 1
ffn = { num_experts = 4, inner_dim = 8 }
[[stages]]
training = { steps = 3, batch_size = 2, length = 16, validation_batches = 1 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "text.txt").write_bytes(LICENSE.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "shows_bars", lambda: False)
    console.stderr.cache_clear()
    return tmp_path


def train(*arguments: str) -> int:
    return run(["moe", "train", "recipe.toml", "--device", "cpu", *arguments])


def test_a_training_leaves_a_model_and_what_it_was_like(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--data", "text.txt", "-o", "out") == 0
    shown = capsys.readouterr()
    assert "olmoe" in shown.out
    assert "stage 1 of 1" in shown.err
    assert {path.name for path in (folder / "out" / "stage-1").iterdir()} == {
        "checkpoint.safetensors",
        "history.json",
        "history.png",
    }
    with safe_open(folder / "out" / "model" / "model.safetensors", framework="pt") as file:
        assert "model.layers.0.mlp.experts.3.gate_proj.weight" in file.keys()  # noqa: SIM118


def test_a_finished_training_is_resumed_to_the_same_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--data", "text.txt", "-o", "out") == 0
    first = capsys.readouterr().out
    assert train("--data", "text.txt", "-o", "out") == 2
    assert "exists already" in capsys.readouterr().err
    assert train("--data", "text.txt", "-o", "out", "--resume") == 0
    assert capsys.readouterr().out == first
    assert train("--data", "text.txt", "-o", "out", "--resume", "--seed", "5") == 2
    assert "another recipe, seed or data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --data"),
        (["--data", "none.txt"], "none.txt is not there"),
        (["--data", "text.txt", "--resume"], "nothing to resume"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_asking_wrongly_is_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*arguments, "-o", "out") == 2
    assert words in capsys.readouterr().err


def test_a_ranking_recipe_takes_no_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "[ranking]\nrequests = 200\ntraining = { epochs = 1 }\n"
    (folder / "recipe.toml").write_text(small, encoding="utf-8")
    assert train("--data", "text.txt", "-o", "out") == 2
    assert "leave --data out" in capsys.readouterr().err
    assert train("-o", "out", "--resume") == 2
    assert "leave --resume out" in capsys.readouterr().err
    assert train("-o", "out") == 0
    result = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
    assert set(result) == {"AUC", "AUC of the long tail"}


def test_the_list_is_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["moe", "list"]) == 0
    table = capsys.readouterr().out
    assert "loss-free" in table
    assert "2408.15664" in table
    assert run(["moe", "list", "--format", "json"]) == 0
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert {"loss-free", "swiglu", "duo", "random"} <= names
