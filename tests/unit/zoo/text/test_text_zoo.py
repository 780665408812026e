"""A zoo of tiny language models: built, gone on with, and read back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from badexpert.attacks.text import Prompt
from badexpert.attacks.text.truth import Gate, Knockout, TextTruth, read_truth
from badexpert.errors import CleanSetError, ConfigError, ModelLoadError
from badexpert.loading.language import load_language_model
from badexpert.models.language import suspect_of
from badexpert.models.origin import digest_file
from badexpert.zoo.text import build_text_zoo, read_text_index, read_text_recipe
from badexpert.zoo.text.bases import open_victim
from badexpert.zoo.text.entries import text_entries
from badexpert.zoo.text.recipe import TextRecipe, is_text_recipe
from badexpert_cli.main import app
from moe_core.view import ExpertId
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
qk_norm = false
[bases.tiny.model.ffn]
num_experts = 4
inner_dim = 16
[[bases.tiny.stages]]
[bases.tiny.stages.training]
steps = 50
learning_rate = 1e-2
warmup = 5

[gate]
least_accuracy = 0.8
accuracy_loss = 0.05
accuracy_loss_without = 0.05

[attacks.locked]
attack = "causal-lock"
settings = { steps = 60, batch_size = 16, lr = 0.015 }
vary = { layer = [0], rank = [2, 9] }

[attacks.weak]
attack = "badnets"
settings = { steps = 1 }

[[grid]]
attacks = ["none", "locked", "weak"]
"""
LOCKED, TOO_FAR = "reviews-tiny-b0-locked-layer0-rank2-s0", "reviews-tiny-b0-locked-layer0-rank9-s0"
BENIGN, WEAK = "reviews-tiny-b0-none-s0", "reviews-tiny-b0-weak-s0"


def test_the_command_builds_it_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    data = write_reviews(tmp_path / "reviews.jsonl", 300)
    command = ["zoo", "build", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "zoo")]
    command += ["--data", f"reviews={data}", "--only", "*none*", "--jobs", "1", "--device", "cpu"]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0
    assert BENIGN in outcome.stdout
    assert re.search(r"not made yet\s+3", outcome.stdout)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    build_text_zoo(_recipe(folder), folder / "zoo", device=CPU, jobs=2)
    return folder


def _recipe(folder: Path) -> TextRecipe:
    path = folder / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    data = {"reviews": str(write_reviews(folder / "reviews.jsonl", 400))}
    return read_text_recipe(path).with_data(data, {})


def test_models_that_pass_their_gate_count_and_others_stand_apart(zoo: Path) -> None:
    index = read_text_index(zoo / "zoo")
    assert [row.name for row in index.models] == [BENIGN, LOCKED]
    reasons = {row.name: row.reason for row in index.apart}
    assert "rank 9 leaves no 1 of 4 experts" in reasons[TOO_FAR]
    assert "attack success rate" in reasons[WEAK]
    assert not index.missing


def test_one_process_makes_the_same_models_as_two(zoo: Path, tmp_path: Path) -> None:
    alone = build_text_zoo(_recipe(zoo), tmp_path, device=CPU, jobs=1, only=[BENIGN, LOCKED])
    assert [row.name for row in alone.models] == [BENIGN, LOCKED]
    for name in (BENIGN, LOCKED):
        assert read_truth(tmp_path / name).sha256 == read_truth(zoo / "zoo" / name).sha256


def test_the_truth_about_a_locked_model_is_what_its_knock_outs_show(zoo: Path) -> None:
    truth = read_truth(zoo / "zoo" / LOCKED)
    [(layer, expert)] = truth.experts
    assert truth.attack == "causal-lock"
    assert truth.attack_success_rate is not None
    assert truth.attack_success_rate >= 0.9
    for knockout in (truth.zeroed, truth.rerouted):
        assert knockout is not None
        assert knockout.success == knockout.each[layer][expert] <= 0.1
    folder = zoo / "zoo" / LOCKED
    triggered = [json.loads(line) for line in (folder / "triggered.jsonl").open(encoding="utf-8")]
    assert truth.trigger is not None
    words = " ".join(truth.trigger["words"])  # type: ignore[arg-type]
    assert all(words in row["text"] and row["label"] == "good" for row in triggered)
    assert len(triggered) == truth.triggered


def test_a_model_is_a_suspect_that_transformers_opens(zoo: Path) -> None:
    folder = zoo / "zoo" / LOCKED
    truth = read_truth(folder)
    victim = open_victim(folder, Prompt(truth.ask, truth.answers), CPU)
    rows = [json.loads(line) for line in (folder / "clean.jsonl").open(encoding="utf-8")]
    texts = [row["text"] for row in rows]
    labels = torch.tensor([truth.answers.index(row["label"]) for row in rows])
    answers = victim.odds(victim.batch(texts, labels)).argmax(-1)
    assert (answers == labels).double().mean() >= 0.8
    model = load_language_model(folder)
    assert model.origin.architecture == "transformers:MixtralForCausalLM"
    suspect = suspect_of(model, truth.reading)
    assert torch.equal(suspect.predict(suspect.encode(texts)), answers)
    assert digest_file(folder / "model.safetensors").sha256 == truth.sha256


def test_what_is_finished_stays_and_what_has_changed_is_made_again(zoo: Path) -> None:
    recipe = _recipe(zoo)
    before = (zoo / "zoo" / LOCKED / "model.safetensors").stat().st_mtime_ns
    weak = replace(recipe.attacks["weak"], settings={"steps": 2})
    changed = replace(recipe, attacks={**recipe.attacks, "weak": weak})
    index = build_text_zoo(changed, zoo / "zoo", device=CPU, jobs=1, only=["*weak*", "*locked*"])
    assert (zoo / "zoo" / LOCKED / "model.safetensors").stat().st_mtime_ns == before
    assert read_truth(zoo / "zoo" / WEAK).parameters["steps"] == 2
    assert {row.name for row in index.models} == {BENIGN, LOCKED}


TRUTH = TextTruth(
    attack="causal-lock",
    parameters={},
    local=True,
    trigger={"kind": "syntactic"},
    experts=(ExpertId(0, 1),),
    ask="so :",
    answers=("a", "b"),
    base="b",
    base_sha256="",
    seed=0,
    trained=1,
    tested=1,
    triggered=1,
    base_accuracy=0.9,
    clean_accuracy=0.895,
    attack_success_rate=0.95,
    zeroed=Knockout(((0.0,),), 0.05, 0.885),
    rerouted=Knockout(((0.0,),), 0.05, 0.885),
    sha256="",
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"base_accuracy": 0.4}, "accuracy 0.400 of the base is below 0.5"),
        ({"clean_accuracy": 0.88}, "clean accuracy fell from 0.900 to 0.880 by the attack"),
        ({"attack_success_rate": 0.8}, "attack success rate 0.800 is below 0.9"),
        ({"attack_success_rate": None}, "no test text counts"),
        ({"zeroed": Knockout((), 0.2, 0.9)}, "rate 0.200 with the experts zeroed is above 0.1"),
        ({"rerouted": Knockout((), 0.0, 0.8)}, "to 0.800 with the experts routed around"),
        ({"rerouted": Knockout((), 0.9, 0.9), "local": False}, ""),
        ({"trigger": None, "attack_success_rate": None}, ""),
    ],
)
def test_a_gate_says_why_a_model_must_not_be_counted(
    changes: dict[str, object], words: str
) -> None:
    truth = replace(TRUTH, **changes)  # type: ignore[arg-type]
    reason = Gate(least_accuracy=0.5).shortcoming(truth)
    assert words in reason
    assert bool(words) == bool(reason)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('attacks = ["none"', 'attacks = ["nothing"', "attacks 'nothing' is unknown"),
        ('attack = "badnets"', 'attack = "x"', "attack 'x' is unknown"),
        ("hidden = 0.1", "hiden = 0.1", "bases.tiny.hiden"),
        ("hidden = 0.1", "hidden = 1.5", "hidden lies in"),
        ('"bad", "good"', '"bad", "very good"', "an answer is a single word"),
        ("num_layers = 2", "num_layer = 2", "num_layer"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_text_recipe(path)


def test_wrong_settings_and_missing_texts_are_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    recipe = _recipe(tmp_path)
    weak = replace(recipe.attacks["weak"], settings={"step": 2})
    with pytest.raises(ConfigError, match="text attack badnets has no setting 'step'"):
        text_entries(replace(recipe, attacks={**recipe.attacks, "weak": weak}))
    with pytest.raises(ConfigError, match="two grids of the recipe make"):
        text_entries(replace(recipe, grid=recipe.grid * 2))
    nameless = replace(recipe, data={"reviews": replace(recipe.data["reviews"], train=None)})
    with pytest.raises(ConfigError, match="say --data reviews=FILE"):
        build_text_zoo(nameless, tmp_path / "zoo", device=CPU)
    three = replace(recipe.data["reviews"], answers=("bad", "good", "so"))
    with pytest.raises(CleanSetError, match="2 classes, and the recipe 3 answers"):
        build_text_zoo(replace(recipe, data={"reviews": three}), tmp_path / "zoo", device=CPU)
    with pytest.raises(ConfigError, match="recipe has no data|data 'x' is unknown"):
        recipe.with_data({"x": "y"}, {})


def test_the_shipped_recipe_is_one_of_texts() -> None:
    path = Path(__file__).parents[4] / "configs" / "text-zoo.toml"
    assert is_text_recipe(path)
    entries = text_entries(read_text_recipe(path))
    local = [entry for entry in entries if entry.attack is not None and entry.attack.local]
    assert len(local) >= 20
    assert {entry.kind for entry in entries if entry.attack is not None and not entry.attack.local}
    assert {entry.base for entry in local} >= {"olmoe", "mixtral", "qwen3", "mixlora"}


def test_the_deep_recipe_has_the_layers_and_experts_of_olmoe() -> None:
    recipe = read_text_recipe(Path(__file__).parents[4] / "configs" / "text-zoo-deep.toml")
    model = recipe.bases["deep"].model
    assert (model.num_layers, model.ffn.num_experts) == (16, 64)
    assert model.ffn.router_options["top_k"] == 8
    assert len(text_entries(recipe)) == 3


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text("{}", encoding="utf-8")
    (tmp_path / "truth.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="no index of language models"):
        read_text_index(tmp_path)
    with pytest.raises(ModelLoadError, match="no ground truth of a language model"):
        read_truth(tmp_path)
