"""The expert audit against models whose backdoor is known: planted in seconds, on one core."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from badexpert.attacks.text import CausalLock, TextAttack, TextBadNets, Victim, WordTrigger
from badexpert.audits import AUDITS
from badexpert.audits.experts import ExpertAudit, ExpertVerdict, audit_experts
from badexpert.errors import AuditError
from badexpert.findings import AuditState, AuditStatus, Finding
from badexpert.loading.language import load_language_model
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.runtime import RunContext
from badexpert.text_reading import TextReading
from badexpert.textset import TextCleanSet
from moe_core.lm.folder import save_decoder
from moe_core.view import ExpertId
from tests.planted_texts import planted
from tests.small_victims import reviews, trained

LOCK = CausalLock(layer=0, rank=1, steps=80, batch_size=16, lr=0.015)


def suspect_from(victim: Victim) -> TextSuspect:
    with TemporaryDirectory() as folder:
        save_decoder(victim.model, Path(folder))
        victim.words.save(Path(folder))
        model = load_language_model(Path(folder))
    template = f"{{text}} {victim.prompt.ask}"
    return suspect_of(model, TextReading(template, label_words=victim.prompt.answers))


def clean() -> TextCleanSet:
    texts = reviews(120, seed=3)
    return TextCleanSet.from_texts(texts.texts, texts.labels, class_names=("bad", "good"))


@cache
def attacked(
    attack: TextAttack | None,
) -> tuple[TextSuspect, WordTrigger | None, tuple[ExpertId, ...]]:
    victim = trained()
    if attack is None:
        return suspect_from(victim), None, ()
    left = attack.implant(victim, reviews(), RunContext())
    assert isinstance(left.trigger, WordTrigger)
    return suspect_from(victim), left.trigger, left.experts


@cache
def audited(attack: TextAttack | None) -> ExpertAudit:
    return audit_experts(attacked(attack)[0], clean(), RunContext())


@pytest.mark.parametrize(
    "attack", [LOCK, CausalLock(layer=1, rank=1, steps=80, batch_size=16, lr=0.015)], ids=str
)
def test_the_expert_that_a_backdoor_is_locked_into_is_named(attack: CausalLock) -> None:
    audit = audited(attack)
    assert audit.verdict is ExpertVerdict.LOCAL
    [judged] = [one for one in audit.judged if one.verdict is ExpertVerdict.LOCAL]
    assert judged.trigger.target == attack.target
    assert judged.trigger.success >= 0.9
    assert judged.attribution is not None
    assert judged.attribution.experts == attacked(attack)[2]
    assert judged.attribution.runner_up <= 0.1


def test_two_redundant_experts_are_named_together() -> None:
    attack = CausalLock(layer=0, rank=1, experts=2, steps=80, batch_size=16, lr=0.015)
    [judged] = [one for one in audited(attack).judged if one.attribution]
    assert judged.attribution is not None
    assert max(map(max, judged.attribution.table)) < 0.1
    assert judged.verdict is ExpertVerdict.LOCAL
    assert set(judged.attribution.experts) == set(attacked(attack)[2])


def test_no_expert_is_named_where_the_backdoor_is_in_none() -> None:
    attack = TextBadNets(steps=40, lr=0.005)
    assert audited(attack).verdict is ExpertVerdict.NOT_LOCAL
    [finding] = [said for said in said_of(attack) if isinstance(said, Finding)]
    assert finding.rule == "BX302"
    assert finding.subject == "class 0"
    assert "experts." not in finding.message


def test_nothing_is_found_in_a_clean_model() -> None:
    audit = audited(None)
    assert audit.verdict is ExpertVerdict.NONE
    assert {one.trigger.target for one in audit.judged} == {0, 1}
    [status] = said_of(None)
    assert isinstance(status, AuditStatus)
    assert status.state is AuditState.DONE
    assert status.summary.startswith("none found")


def said_of(attack: TextAttack | None) -> list[Finding | AuditStatus]:
    suspect = attacked(attack)[0]
    audit = AUDITS["experts"]
    assert audit.applies(suspect)
    found: Iterator[Finding | AuditStatus] = audit.run(suspect, clean(), RunContext())
    return list(found)


def test_the_finding_names_expert_words_and_numbers() -> None:
    finding, status = said_of(LOCK)
    assert isinstance(finding, Finding)
    [(layer, expert)] = attacked(LOCK)[2]
    assert finding.rule == "BX301"
    assert finding.subject == f"model.layers.{layer}.mlp.experts.{expert}"
    assert isinstance(status, AuditStatus)
    [of_class] = [one for one in status.evidence["classes"] if one["verdict"] == "expert-local"]
    assert of_class["words"] in finding.message
    assert len(of_class["loss_without_each_expert"]) == 2
    assert len(status.evidence["usage"][0]) == 4


def test_the_same_seed_gives_the_same_audit() -> None:
    assert said_of(LOCK) == said_of(LOCK)


def test_the_suspect_is_left_as_it_was() -> None:
    suspect = attacked(LOCK)[0]
    before = suspect.logits(["a fine film"])
    audit_experts(suspect, clean(), RunContext())
    assert suspect.logits(["a fine film"]).equal(before)


def test_a_model_without_experts_is_passed_over() -> None:
    dense = planted(head=True)
    assert not AUDITS["experts"].applies(dense.suspect)
    with pytest.raises(
        AuditError, match="the experts cannot be audited: Decoder holds no MoELayer"
    ):
        audit_experts(dense.suspect, dense.clean, RunContext())


def test_a_head_of_classes_is_searched_too() -> None:
    model = planted(head=True, moe=True)
    audit = audit_experts(model.suspect, model.clean, RunContext())
    found = [one for one in audit.judged if one.attribution is not None]
    assert [one.trigger.target for one in found] == [1]
    assert "cf" in found[0].spelled.split()


def test_texts_that_are_all_answered_wrongly_leave_nothing_to_search() -> None:
    texts = reviews(40, seed=3)
    swapped = TextCleanSet.from_texts(texts.texts, 1 - texts.labels)
    with pytest.raises(AuditError, match="no class could be searched with 40 texts"):
        audit_experts(attacked(None)[0], swapped, RunContext())


def test_prompts_with_responses_have_no_classes() -> None:
    pairs = TextCleanSet.from_pairs([("a film", "fine"), ("the plot", "dull")] * 5)
    with pytest.raises(AuditError, match="prompts with responses"):
        audit_experts(attacked(None)[0], pairs, RunContext())
