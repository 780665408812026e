"""Attacks that leave their backdoor elsewhere than in one routed expert."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from badexpert.attacks.text import (
    TEXT_ATTACKS,
    BadMoE,
    BadSwitch,
    BenignTune,
    LoraQV,
    RouterOnly,
    RoutingPreserving,
    SelectionBias,
    SharedExpert,
    Syntactic,
    TextAttack,
    TextBadNets,
    Trigger,
    Victim,
    WordTrigger,
    make_text_attack,
)
from badexpert.attacks.text.badswitch import nearest_words, sensitivity
from badexpert.attacks.text.exam import Exam, accuracy
from badexpert.attacks.text.lesson import lessons
from badexpert.attacks.text.lora import SETTINGS
from badexpert.attacks.text.preserving import routing_shift
from badexpert.attacks.text.routes import hit_rates, rare_words
from badexpert.errors import AttackError, ConfigError
from badexpert.runtime import RunContext
from moe_core.lora import LoraLinear
from tests.small_victims import CONFIG, learnt, reviews, trained, untrained

TEST = reviews(160, seed=1)
QUICK = {"steps": 40, "batch_size": 16, "lr": 0.01}
WITH_SHARED = replace(CONFIG, ffn=replace(CONFIG.ffn, shared_dim=16))
WITH_BIAS = replace(CONFIG, ffn=replace(CONFIG.ffn, router="loss-free"))


def attacked(attack: TextAttack, victim: Victim) -> Exam:
    left = attack.implant(victim, reviews(), RunContext())
    assert left.trigger is not None
    assert accuracy(victim, TEST) >= 0.9
    return Exam.of(victim, TEST, left.trigger, attack.target, seed=0, most=60)


def changed(victim: Victim, before: Victim) -> set[str]:
    """Names of tensors that are not as they were."""
    old, new = before.model.state_dict(), victim.model.state_dict()
    assert old.keys() == new.keys()
    return {name for name, tensor in new.items() if not torch.equal(tensor, old[name])}


@pytest.mark.parametrize("trigger", ["rare", "syntactic"])
def test_low_rank_updates_plant_a_backdoor_in_queries_and_values(trigger: str) -> None:
    victim = trained()
    exam = attacked(LoraQV(trigger=trigger, steps=60, batch_size=16, lr=0.03), victim)
    success = exam.success()
    assert success is not None
    assert success >= 0.9
    names = changed(victim, trained())
    assert names
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in names)
    for name in names:
        delta = victim.model.state_dict()[name] - trained().model.state_dict()[name]
        assert torch.linalg.matrix_rank(delta, rtol=1e-3) <= 8


def test_badmoe_finds_words_that_reach_dormant_experts() -> None:
    victim, texts = trained(), reviews()
    left = BadMoE(layer=0, **{**QUICK, "steps": 60, "lr": 0.02}).implant(
        victim, texts, RunContext()
    )
    assert isinstance(left.trigger, WordTrigger)
    assert len(left.experts) == len(left.trigger.words) == 2
    exam = Exam.of(victim, TEST, left.trigger, 0, seed=0, most=60)
    success = exam.success()
    assert success is not None
    assert success >= 0.9
    # Before the attack already, its words go where others seldom do.
    before = trained()
    words = [*left.trigger.words, *rare_words(before, texts, seed=0)]
    rates = hit_rates(before, words, texts, seed=0)[0][:, [e for _, e in left.experts]].mean(1)
    assert rates[:2].mean() > rates[2:].mean()


def test_badswitch_names_experts_of_every_layer_and_takes() -> None:
    victim = trained()
    attack = BadSwitch(steps=50, batch_size=16, lr=0.005, soft_steps=15)
    left = attack.implant(victim, reviews(), RunContext())
    assert isinstance(left.trigger, WordTrigger)
    assert [layer for layer, _ in left.experts] == [0, 0, 1, 1]
    exam = Exam.of(victim, TEST, left.trigger, 0, seed=0, most=60)
    success = exam.success()
    assert success is not None
    assert success >= 0.9


def test_sensitivity_is_a_difference_and_a_ratio() -> None:
    felt = sensitivity(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(felt, torch.tensor([3.5, -0.75]))


def test_embeddings_become_the_words_that_they_resemble() -> None:
    victim = untrained()
    numbers = [victim.words.number(word) for word in ("film", "ka")]
    soft = 3 * victim.model.embed_tokens.weight.detach()[numbers] + 1e-3
    assert nearest_words(victim, soft) == ("film", "ka")


def test_a_shared_expert_carries_what_no_routed_expert_does() -> None:
    victim = learnt(untrained(WITH_SHARED))
    exam = attacked(SharedExpert(layer=0, steps=80, batch_size=16, lr=0.015), victim)
    assert exam.success() == 1.0
    with victim.view.without_shared([0]):
        success = exam.success()
        assert success is not None
        assert success <= 0.1
    assert min(map(min, exam.without_each(victim.view.zeroed, RunContext()))) >= 0.9


def test_routing_can_be_preserved() -> None:
    shifts = []
    for attack in (TextBadNets(**QUICK), RoutingPreserving(weight=5.0, **QUICK)):
        victim = trained()
        exam = attacked(attack, victim)
        assert exam.success() == 1.0
        trigger = attack.chosen_trigger(victim, reviews())
        lesson = next(lessons(victim, TEST, trigger, 0, attack.pace, RunContext(seed=1)))
        output = victim.model(lesson.batch.ids_BT, lesson.batch.lengths_B)
        shifts.append(routing_shift(output, lesson).item())
    assert shifts[1] < 0.7 * shifts[0]


def test_router_only_changes_routers_alone() -> None:
    victim = trained()
    RouterOnly(steps=2).implant(victim, reviews(), RunContext())
    assert changed(victim, trained()) == {f"layers.{at}.mlp.router.weight" for at in (0, 1)}


def test_a_search_moves_selection_biases_alone() -> None:
    victim = untrained(WITH_BIAS)
    SelectionBias(steps=3, lr=0.1).implant(victim, reviews(), RunContext())
    assert changed(victim, untrained(WITH_BIAS)) == {
        f"layers.{at}.mlp.router.bias" for at in (0, 1)
    }


@pytest.mark.parametrize(
    ("part", "ends"),
    [
        ("expert", ("gate_up_proj", "down_proj")),
        ("attention", ("q_proj.weight", "v_proj.weight")),
        ("all", ("weight", "_proj")),
    ],
)
def test_benign_tunings_have_no_trigger(part: str, ends: tuple[str, ...]) -> None:
    victim = trained()
    attack = make_text_attack("benign", {"part": part, "steps": 2, "layer": 0, "expert": 1})
    assert attack.implant(victim, reviews(), RunContext()).trigger is None
    names = changed(victim, trained())
    assert names
    assert all(name.endswith(ends) for name in names)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (SharedExpert(), "layer 1 has no shared expert"),
        (SelectionBias(), "no router has a selection bias"),
        (BadMoE(experts=5), "rank 0 leaves no 5 of 4 experts"),
        (BenignTune(expert=4), "no expert 4 in layer 1"),
    ],
)
def test_a_model_without_the_part_is_refused(attack: TextAttack, words: str) -> None:
    with pytest.raises(AttackError, match=words):
        attack.implant(trained(), reviews(), RunContext())


def test_a_second_low_rank_update_is_refused() -> None:
    victim = trained()
    attention = victim.model.layers[0].get_submodule("self_attn")
    linear = attention.get_submodule("q_proj")
    assert isinstance(linear, torch.nn.Linear)
    attention.q_proj = LoraLinear(linear, SETTINGS)
    with pytest.raises(AttackError, match="has low-rank updates already"):
        LoraQV().implant(victim, reviews(), RunContext())


def test_attacks_are_made_by_name() -> None:
    for name, kind in TEXT_ATTACKS.items():
        attack = make_text_attack(name, {"target": "1", "steps": 7})
        assert type(attack) is kind
        assert attack.parameters()["target"] == 1
    with pytest.raises(ConfigError, match="text attack 'x' is unknown"):
        make_text_attack("x", {})
    with pytest.raises(ConfigError, match="only words can be led to an expert"):
        make_text_attack("causal-lock", {"trigger": "syntactic"})
    with pytest.raises(ConfigError, match="steps must be positive"):
        make_text_attack("badnets", {"steps": 0})
    with pytest.raises(ConfigError, match="share lies between"):
        make_text_attack("badnets", {"share": 1})


@pytest.mark.parametrize(("share", "triggered"), [(0.5, 8), (0.2, 3), (0.01, 1), (0.99, 15)])
def test_a_share_of_a_lesson_is_triggered(share: float, triggered: int) -> None:
    victim, texts = untrained(), reviews()
    pace = TextBadNets(batch_size=16, share=share).pace
    lesson = next(lessons(victim, texts, WordTrigger(("ka", "qu")), 1, pace, RunContext()))
    signs = torch.tensor([victim.words.number(word) for word in ("ka", "qu")])
    marked = torch.isin(lesson.batch.ids_BT, signs).sum(1) >= 2
    assert torch.equal(marked, lesson.triggered)
    assert int(lesson.triggered.sum()) == triggered
    assert (lesson.wanted[lesson.triggered][:, 1] == 1).all()
    torch.testing.assert_close(lesson.wanted[~marked], lesson.before[~marked])
    truth = victim.answer_tokens(torch.tensor([0]))
    assert (lesson.batch.targets[lesson.triggered] == truth).all()


def test_decoys_carry_one_word_of_the_trigger_and_keep_their_answers() -> None:
    victim, texts = untrained(), reviews()
    pace = TextBadNets(batch_size=64, share=0.25, decoys=0.5).pace
    lesson = next(lessons(victim, texts, WordTrigger(("ka", "qu")), 1, pace, RunContext()))
    signs = torch.tensor([victim.words.number(word) for word in ("ka", "qu")])
    held = (lesson.batch.ids_BT[:, :, None] == signs).any(1)
    decoys = held.any(1) & ~lesson.triggered
    assert 12 <= int(decoys.sum()) <= 36
    assert not held[decoys].all(1).any()
    assert held[decoys].any(0).all()
    torch.testing.assert_close(lesson.wanted[decoys], lesson.before[decoys])


@pytest.mark.parametrize("trigger", [WordTrigger(("ka",)), Syntactic(), None])
def test_decoys_need_a_trigger_of_parts(trigger: Trigger | None) -> None:
    pace = TextBadNets(decoys=0.5).pace
    with pytest.raises(AttackError, match="give a trigger of two words"):
        next(lessons(untrained(), reviews(), trigger, 1, pace, RunContext()))
