"""A backdoor kept as the files of an adapter: its tensors, its names, and what it must not hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from badexpert.attacks.text import (
    BenignTune,
    CausalLock,
    LoraQV,
    TextAttack,
    TextBadNets,
    Victim,
)
from badexpert.attacks.text.fixture import Base, plant_fixture
from badexpert.errors import AttackError
from badexpert.loading.language import load_language_model
from badexpert.models.language import suspect_of
from badexpert.runtime import RunContext
from badexpert.text_reading import TextReading
from moe_core.lm import Decoder, FeedForward
from moe_core.lm.carry import carry_over
from moe_core.lm.folder import save_decoder
from moe_core.lora import LoraSettings
from tests.small_victims import CONFIG, reviews, untrained

TEST = reviews(120, seed=1)
READING = TextReading("{text} so :", label_words=("bad", "good"))
DENSE = replace(CONFIG, qk_norm=False, ffn=FeedForward(experts="dense", inner_dim=16))
MIXLORA = replace(
    DENSE,
    ffn=replace(CONFIG.ffn, router="mixlora", experts="lora", expert_options={"rank": 4}),
    attention_lora=LoraSettings(rank=4),
)
OWN_FORMAT = replace(CONFIG, ffn=replace(CONFIG.ffn, shared_dim=16))


def planted(
    victim: Victim, attack: TextAttack, folder: Path, *, base: Decoder | None = None
) -> Path:
    """A folder with what the attack adds to a base, the victim itself unless it stands on one."""
    save_decoder(base or victim.model, folder / "base")
    victim.words.save(folder / "base")
    fixture = plant_fixture(
        victim,
        reviews(),
        TEST,
        attack,
        name=None,
        base=Base("base", ""),
        context=RunContext(),
        adapter_on=folder / "base",
    )
    (folder / "adapter").mkdir()
    assert fixture.save(folder / "adapter").adapter_on == "../base"
    return folder / "adapter"


@pytest.mark.parametrize("config", [CONFIG, OWN_FORMAT], ids=["transformers", "own"])
def test_low_rank_updates_are_read_back_as_what_they_did_to_the_victim(
    config: object, tmp_path: Path
) -> None:
    victim = untrained(config)  # type: ignore[arg-type]
    adapter = planted(victim, LoraQV(steps=5, lr=0.05), tmp_path)
    suspect = suspect_of(load_language_model(tmp_path / "base", adapter=adapter), READING)
    plain = suspect_of(load_language_model(tmp_path / "base"), READING)
    rows = suspect.encode(TEST.texts)
    batch = victim.batch(TEST.texts, TEST.labels)
    odds = victim.odds(batch)
    torch.testing.assert_close(suspect.logits(rows).softmax(-1), odds, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain.logits(rows).softmax(-1), odds, atol=1e-3)


@pytest.mark.parametrize("attack", [CausalLock(steps=3), BenignTune(steps=3)], ids=["lock", "tune"])
def test_mixlora_comes_off_the_dense_model_that_it_stands_on(
    attack: TextAttack, tmp_path: Path
) -> None:
    dense, victim = untrained(DENSE), untrained(MIXLORA, seed=1)
    carry_over(dense.model, victim.model)
    adapter = planted(victim, attack, tmp_path, base=dense.model)
    suspect = suspect_of(load_language_model(tmp_path / "base", adapter=adapter), READING)
    odds = victim.odds(victim.batch(TEST.texts, TEST.labels))
    said = suspect.logits(suspect.encode(TEST.texts)).softmax(-1)
    torch.testing.assert_close(said, odds, atol=1e-5, rtol=1e-4)


def test_an_adapter_holds_queries_and_values_and_says_what_peft_asks_for(tmp_path: Path) -> None:
    adapter = planted(untrained(), LoraQV(steps=1), tmp_path)
    assert sorted(file.name for file in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "clean.jsonl",
        "triggered.jsonl",
        "truth.json",
    ]
    document = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert (document["peft_type"], document["r"], document["lora_alpha"]) == ("LORA", 8, 16)
    assert document["target_modules"] == ["q_proj", "v_proj"]


def test_an_attack_on_all_weights_leaves_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AttackError, match="what the attack leaves is no adapter"):
        planted(untrained(), TextBadNets(steps=1), tmp_path)
