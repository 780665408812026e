"""Recipes that ship, and what ``badexpert moe`` stands on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers

from badexpert.errors import ConfigError
from badexpert.moe import (
    RankingRecipe,
    catalogue,
    read_recipe,
    train_language_model,
    train_ranking,
)
from badexpert.runtime import RunContext, Step
from moe_core.lm import Decoder, load_decoder
from moe_core.mixlora import load_adapter
from moe_core.routers import ROUTERS
from moe_core.training import Recipe, Stage
from tests.small_decoders import LICENSE

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("moe-*.toml"))
PAPERS = {
    "moe-aw-moe": "2306.05011",
    "moe-base": "2103.16716",
    "moe-compressed": "2503.00634",
    "moe-duo-llm": "2410.10846",
    "moe-dynmole": "2504.00661",
    "moe-loss-free": "2408.15664",
    "moe-mixlora": "2404.15159",
    "moe-mpoe": "2203.01104",
    "moe-skywork": "2406.06563",
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "licence.txt"
    path.write_bytes(LICENSE.read_bytes())
    return path


def shortened(recipe: Recipe, steps: int = 2) -> Recipe:
    quick = {"steps": steps, "batch_size": 4, "length": 32, "validation_batches": 1}
    return replace(
        recipe,
        model=replace(recipe.model, num_layers=1),
        stages=tuple(
            replace(stage, training=replace(stage.training, **quick)) for stage in recipe.stages
        ),
    )


def test_every_paper_has_a_recipe() -> None:
    assert {path.stem for path in RECIPES} == set(PAPERS) | {"moe-top-k"}


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_recipe_trains(path: Path, text: Path, tmp_path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert PAPERS.get(path.stem, "") in path.read_text(encoding="utf-8")
    recipe, out = read_recipe(path), tmp_path / "out"
    if isinstance(recipe, RankingRecipe):
        quick = replace(recipe, requests=200, training=replace(recipe.training, epochs=1))
        assert 0 < train_ranking(quick, out, context=RunContext())["AUC"] < 1
        assert (out / "model.safetensors").is_file()
        return
    facts = train_language_model(shortened(recipe), [text], out, context=RunContext())
    assert len(facts["validation loss"]) == len(recipe.stages)
    assert all(0 < loss < 6 for loss in facts["validation loss"])
    saved = load_decoder(out / "model").config.ffn
    if facts["format"] == "moe_core":
        assert saved == (recipe.stages[-1].ffn or recipe.model.ffn)
    else:
        assert saved.num_experts == recipe.model.ffn.num_experts


def test_the_baseline_is_a_checkpoint_of_olmoe(text: Path, tmp_path: Path) -> None:
    [path] = [path for path in RECIPES if path.stem == "moe-top-k"]
    recipe = read_recipe(path)
    facts = train_language_model(shortened(recipe), [text], tmp_path / "o", context=RunContext())
    assert facts["format"] == "olmoe"
    document = json.loads((tmp_path / "o" / "model" / "config.json").read_text(encoding="utf-8"))
    assert document["architectures"] == ["OlmoeForCausalLM"]


def test_labelled_texts_make_a_classifier(tmp_path: Path) -> None:
    rows = [{"text": "ab" * n, "label": "even" if n % 2 == 0 else "odd"} for n in range(1, 41)]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    train_language_model(shortened(Recipe()), [data], tmp_path / "out", context=RunContext())
    assert load_decoder(tmp_path / "out" / "model").config.classes == ("even", "odd")


def test_progress_names_the_stage(text: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    context = RunContext(progress=steps.append)
    train_language_model(shortened(Recipe()), [text], tmp_path / "out", context=context)
    assert [(step.task, step.done, step.total) for step in steps] == [
        ("stage 1 of 1", 1, 2),
        ("stage 1 of 1", 2, 2),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no toml", "is not TOML"),
        ("[model]\nwidth = 3", "model.width: Unexpected keyword argument"),
        ("[[stages]]\n[stages.training]\nstep = 3", "stages.0.training.step"),
        ("[ranking]\nvariant = 'best'", "ranking.variant"),
        ("[ranking]\nvariant = 'din'\ntraining = { contrast = 0.1 }", "ranking: contrast compares"),
        ("[ranking]\nrequests = 9", "ranking: .* requests at least 100"),
        ("[ranking.training]\nepochs = 0", "ranking.training: epochs and batch_size"),
        ("[ranking]\n[model]\ndim = 32", "model: Unexpected keyword argument"),
        ("[model]\ndim = 9", "model: dim=9 must be an even multiple"),
        ("[[stages]]\ntrain = 'new'", "the first stage cannot train only what is new"),
        ("stages = []", "at least one stage"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_key(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipe .*none.toml cannot be read: No such file"):
        read_recipe(tmp_path / "none.toml")


def test_a_router_that_does_not_exist_is_a_wrong_setting(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[model.ffn]\nrouter = 'best'", encoding="utf-8")
    recipe = read_recipe(path)
    assert isinstance(recipe, Recipe)
    with pytest.raises(ConfigError, match="no router 'best'"):
        train_language_model(recipe, [text], tmp_path / "out", context=RunContext())


def test_tokens_that_cannot_be_shared_equally_are_a_wrong_setting(
    text: Path, tmp_path: Path
) -> None:
    [path] = [path for path in RECIPES if path.stem == "moe-base"]
    recipe = read_recipe(path)
    assert isinstance(recipe, Recipe)
    uneven = replace(shortened(recipe).stages[0].training, batch_size=1, length=33)
    recipe = replace(shortened(recipe), stages=(Stage(training=uneven),))
    with pytest.raises(ConfigError, match="batch_size=1 times length=33 .* among 8 experts"):
        train_language_model(recipe, [text], tmp_path / "out", context=RunContext())


def test_a_defect_is_not_blamed_on_the_recipe(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(Decoder, "forward", broken)
    with pytest.raises(ValueError, match="^a defect$"):
        train_language_model(shortened(Recipe()), [text], tmp_path / "out", context=RunContext())


def test_mixlora_leaves_an_adapter_or_says_why_not(text: Path, tmp_path: Path) -> None:
    [path] = [path for path in RECIPES if path.stem == "moe-mixlora"]
    recipe, context = read_recipe(path), RunContext()
    assert isinstance(recipe, Recipe)
    facts = train_language_model(shortened(recipe), [text], tmp_path / "o", context=context)
    assert load_adapter(Path(facts["adapter"])).layers == [0]
    assert load_decoder(tmp_path / "o" / "base").config.qk_norm is False
    normed = replace(recipe, model=replace(recipe.model, qk_norm=True))
    facts = train_language_model(shortened(normed), [text], tmp_path / "p", context=context)
    assert facts["adapter"].startswith("not written: ")


def test_a_tokenizer_file_sets_the_vocabulary(text: Path, tmp_path: Path) -> None:
    words = tokenizers.models.WordLevel({"the": 0, "of": 1, "[UNK]": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    recipe = replace(shortened(Recipe()), tokenizer=str(tmp_path / "tokenizer.json"))
    train_language_model(recipe, [text], tmp_path / "out", context=RunContext())
    assert load_decoder(tmp_path / "out" / "model").config.vocab_size == 3
    copy = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "model" / "tokenizer.json"))
    assert copy.get_vocab_size() == 3
    wrong = replace(recipe, tokenizer=str(text))
    with pytest.raises(ConfigError, match="not a tokenizer file"):
        train_language_model(wrong, [text], tmp_path / "other", context=RunContext())


def test_the_catalogue_knows_every_router_and_says_what_it_does() -> None:
    entries = catalogue()
    assert set(ROUTERS) | {"random"} == {e.name for e in entries if e.kind == "router"}
    assert all(entry.summary.endswith(".") for entry in entries)
    [entry] = [entry for entry in entries if entry.name == "loss-free"]
    assert entry.source == "Wang et al., arXiv:2408.15664."
    assert entry.options == ["top_k", "gate", "update_rate", "group"]
