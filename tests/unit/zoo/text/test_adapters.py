"""Backdoors that live in an adapter: built, opened on the untouched base, and found there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from badexpert.attacks.text.truth import read_truth
from badexpert.audits.experts import ExpertVerdict
from badexpert.bench.expert_audits import run_expert_bench
from badexpert.loading.language import load_language_model
from badexpert.models.language import suspect_of
from badexpert.models.origin import digest_file
from badexpert.runtime import RunContext
from badexpert.zoo.text import build_text_zoo, read_text_index, read_text_recipe
from badexpert_cli.exits import ExitCode
from badexpert_cli.main import app
from tests.small_victims import write_reviews

CPU = torch.device("cpu")
RECIPE = """
[data.reviews]
ask = "so :"
answers = ["bad", "good"]
words = 8

[bases.tiny]
vocabulary = 60
hidden = 0.1
[bases.tiny.model]
dim = 16
num_layers = 2
num_heads = 2
num_kv_heads = 2
[bases.tiny.model.ffn]
num_experts = 4
inner_dim = 16
[[bases.tiny.stages]]
[bases.tiny.stages.training]
steps = 50
learning_rate = 1e-2
warmup = 5

[bases.mixlora]
vocabulary = 60
hidden = 0.1
[bases.mixlora.model]
dim = 16
num_layers = 2
num_heads = 2
num_kv_heads = 2
qk_norm = false
[bases.mixlora.model.ffn]
experts = "dense"
inner_dim = 32
[[bases.mixlora.stages]]
[bases.mixlora.stages.training]
steps = 50
learning_rate = 1e-2
warmup = 5
[[bases.mixlora.stages]]
train = "new"
[bases.mixlora.stages.attention_lora]
rank = 4
alpha = 8.0
[bases.mixlora.stages.ffn]
router = "mixlora"
experts = "lora"
num_experts = 4
inner_dim = 32
expert_options = { rank = 4, alpha = 8.0 }
[bases.mixlora.stages.training]
steps = 20
learning_rate = 1e-2
warmup = 5

[gate]
least_accuracy = 0.8
accuracy_loss = 0.05
accuracy_loss_without = 0.05

[attacks.locked]
attack = "causal-lock"
settings = { layer = 0, rank = 1, steps = 120, batch_size = 16, lr = 0.02 }
adapter = true

[attacks.low-rank]
attack = "lora"
settings = { steps = 60, batch_size = 16, lr = 0.03 }
adapter = true

[attacks.all-weights]
attack = "badnets"
settings = { steps = 1 }
adapter = true

[[grid]]
bases = ["tiny"]
attacks = ["low-rank"]

[[grid]]
bases = ["mixlora"]
attacks = ["locked", "all-weights"]
"""
LORA, LOCKED = "reviews-tiny-b0-low-rank-s0", "reviews-mixlora-b0-locked-s0"
WHOLE = "reviews-mixlora-b0-all-weights-s0"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    path = folder / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    train = {"reviews": str(write_reviews(folder / "train.jsonl", 400))}
    test = {"reviews": str(write_reviews(folder / "test.jsonl", 300, seed=3))}
    build_text_zoo(
        read_text_recipe(path).with_data(train, test), folder / "zoo", device=CPU, jobs=1
    )
    return folder / "zoo"


def test_what_is_no_adapter_is_kept_apart_and_says_why(zoo: Path) -> None:
    index = read_text_index(zoo)
    assert {row.name for row in index.models} == {LORA, LOCKED}, index.apart
    [apart] = index.apart
    assert apart.name == WHOLE
    assert "more was trained than the adapter" in apart.reason


@pytest.mark.parametrize("name", [LORA, LOCKED])
def test_base_and_adapter_answer_as_the_model_that_was_measured(zoo: Path, name: str) -> None:
    folder = zoo / name
    assert not (folder / "model.safetensors").exists()
    truth = read_truth(folder)
    base, adapter = truth.parts(folder)
    assert adapter == folder
    assert digest_file(base / "model.safetensors").sha256 == truth.base_sha256
    suspect = suspect_of(load_language_model(base, adapter=adapter), truth.reading)
    rows = [json.loads(line) for line in (folder / "triggered.jsonl").open(encoding="utf-8")]
    texts = [row["text"] for row in rows]
    hits = (suspect.predict(suspect.encode(texts)) == truth.parameters["target"]).double().mean()
    assert hits.item() == truth.attack_success_rate


def test_the_audit_of_a_zoo_names_the_expert_of_an_adapter(zoo: Path, tmp_path: Path) -> None:
    [audited] = run_expert_bench(zoo, tmp_path, RunContext(), only=[LOCKED])
    assert audited.verdict is ExpertVerdict.LOCAL
    assert audited.named == audited.planted == read_truth(zoo / LOCKED).experts
    assert audited.removal is not None
    assert audited.removal.success == 1.0
    assert audited.removal.success_without == 0.0


def test_the_commands_take_base_and_adapter(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, adapter = map(str, read_truth(zoo / LOCKED).parts(zoo / LOCKED))
    given = ["--adapter", adapter, "--clean", f"{adapter}/clean.jsonl"]
    (tmp_path / "badexpert.toml").write_text('model.text.template = "{text} so :"\n')
    outcome = CliRunner().invoke(app, ["experts", base, *given, "--format", "json=experts.json"])
    assert outcome.exit_code == ExitCode.FOUND, outcome.stderr
    [finding] = json.loads((tmp_path / "experts.json").read_text())["findings"]
    [(layer, expert)] = read_truth(zoo / LOCKED).experts
    assert f"without model.layers.{layer}.mlp.moe.experts.{expert} it loses" in finding["message"]
