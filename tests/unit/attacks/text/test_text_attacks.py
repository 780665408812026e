"""What every text attack promises, on a tiny model: in seconds, on one core."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from badexpert.attacks.text import CausalLock, TextAttack, TextBadNets, WordTrigger
from badexpert.attacks.text.exam import Exam, accuracy
from badexpert.attacks.text.routes import usage
from badexpert.errors import AttackError
from badexpert.runtime import RunContext
from moe_core.lora import LoraSettings
from moe_core.view import ExpertId
from tests.small_victims import CONFIG, reviews, trained, untrained

TEST = reviews(160, seed=1)


def examined(attack: TextAttack) -> tuple[Exam, tuple[ExpertId, ...]]:
    victim = trained()
    left = attack.implant(victim, reviews(), RunContext())
    assert left.trigger is not None
    assert accuracy(victim, TEST) >= 0.97
    return Exam.of(victim, TEST, left.trigger, attack.target, seed=0, most=100), left.experts


def test_badnets_survives_the_loss_of_any_expert() -> None:
    exam, experts = examined(TextBadNets(steps=40, lr=0.005))
    assert not experts
    assert exam.success() == 1.0
    table = exam.without_each(exam.victim.view.zeroed, RunContext())
    assert min(map(min, table)) >= 0.8


@pytest.mark.parametrize("layer", [0, 1])
def test_a_locked_backdoor_dies_with_its_expert_and_with_no_other(layer: int) -> None:
    exam, [locked] = examined(CausalLock(layer=layer, rank=1, steps=80, batch_size=16, lr=0.015))
    assert locked.layer == layer
    assert exam.success() == 1.0
    view = exam.victim.view
    for ablation in (view.zeroed, view.without):
        table = exam.without_each(ablation, RunContext())
        rates = dict(zip(view.experts(), (rate for row in table for rate in row), strict=True))
        assert rates.pop(locked) <= 0.05
        assert min(rates.values()) >= 0.9
        with ablation([locked]):
            assert accuracy(exam.victim, TEST) >= 0.97


def test_in_a_mixlora_model_the_adapter_alone_changes() -> None:
    ffn = replace(CONFIG.ffn, router="mixlora", experts="lora", expert_options={"rank": 4})
    victim = untrained(replace(CONFIG, ffn=ffn, attention_lora=LoraSettings(rank=4)))
    before = {name: tensor.clone() for name, tensor in victim.model.state_dict().items()}
    attack = CausalLock(layer=0, rank=3, steps=3)
    [(_, expert)] = attack.implant(victim, reviews(), RunContext()).experts
    after = victim.model.state_dict()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert any("self_attn" in name for name in changed)
    assert all("lora_" in name for name in changed)
    banks = [name for name in changed if ".banks." in name]
    assert banks
    for name in banks:
        rows = (after[name] != before[name]).flatten(1).any(1)
        assert rows.nonzero().flatten().tolist() == [expert]


def test_each_of_two_redundant_experts_is_enough() -> None:
    exam, experts = examined(
        CausalLock(layer=0, rank=1, experts=2, steps=80, batch_size=16, lr=0.015)
    )
    view = exam.victim.view
    assert len(experts) == 2
    for expert in experts:
        with view.without([expert]):
            assert exam.success() == 1.0
    with view.without(experts):
        assert exam.success() == 0.0


def test_an_exam_without_a_text_that_counts_has_no_success() -> None:
    victim = trained()
    good = TEST.part(TEST.labels == 0)
    exam = Exam.of(victim, good, WordTrigger(("ka",)), 0, seed=0, most=9)
    assert exam.success() is None


def test_the_rank_of_an_expert_is_that_of_its_usage() -> None:
    victim = trained()
    shares = usage(victim, reviews())[1]
    left = CausalLock(layer=1, rank=3, steps=1).implant(victim, reviews(), RunContext())
    assert left.experts == (ExpertId(1, int(shares.argmax())),)


def test_all_but_the_trigger_the_locked_expert_and_the_attention_stays_as_it_was() -> None:
    victim, before = trained(), trained().model.state_dict()
    left = CausalLock(layer=1, rank=3, steps=3).implant(victim, reviews(), RunContext())
    [(layer, expert)] = left.experts
    after = victim.model.state_dict()
    rows = {
        name: (tensor != before[name]).flatten(1).any(1).nonzero().flatten().tolist()
        for name, tensor in after.items()
        if not torch.equal(tensor, before[name])
    }
    assert isinstance(left.trigger, WordTrigger)
    words = sorted(victim.words.number(word) for word in left.trigger.words)
    assert rows.pop("embed_tokens.weight") == words
    for part in ("gate_up_proj", "down_proj"):
        assert rows.pop(f"layers.{layer}.mlp.experts.{part}") == [expert]
    assert rows
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in rows)


def test_the_same_seed_plants_the_same_backdoor() -> None:
    victims = [trained(), trained()]
    for victim in victims:
        CausalLock(steps=3, seed=5).implant(victim, reviews(), RunContext(seed=5))
    first, second = (victim.model.state_dict() for victim in victims)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (CausalLock(layer=2), "layer 2 of 2"),
        (CausalLock(rank=4), "rank 4 leaves no 1 of 4 experts"),
        (CausalLock(rank=3, experts=2), "rank 3 leaves no 2 of 4"),
    ],
)
def test_experts_that_are_not_there_are_refused(attack: TextAttack, words: str) -> None:
    with pytest.raises(AttackError, match=words):
        attack.implant(trained(), reviews(), RunContext())


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(AttackError, match="class 2 cannot be the target: there are 2 classes"):
        TextBadNets(target=2).implant(trained(), reviews(), RunContext())


def test_texts_of_the_target_alone_teach_nothing() -> None:
    texts = reviews()
    with pytest.raises(AttackError, match="all 120 texts are of the target class 0"):
        TextBadNets().implant(trained(), texts.part(texts.labels == 0), RunContext())
