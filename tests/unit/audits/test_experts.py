"""The expert audit against models whose backdoor is known: planted in seconds, on one core."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from badexpert.attacks.text import CausalLock, SharedExpert, TextAttack
from badexpert.audits import AUDITS
from badexpert.audits.experts import ExpertVerdict, audit_experts, experts_report
from badexpert.audits.experts.verdict import TRIGGER_FOUND
from badexpert.config import ScanConfig
from badexpert.errors import AuditError
from badexpert.findings import AuditState, AuditStatus, Finding
from badexpert.report import FORMATS
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet
from badexpert_cli import text
from tests.attacked_victims import (
    EVERYWHERE,
    LOCK,
    attacked,
    audited,
    base,
    clean,
    suspect_from,
)
from tests.planted_texts import planted
from tests.small_victims import CONFIG, learnt, reviews, untrained


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
    attack = EVERYWHERE
    assert audited(attack).verdict is ExpertVerdict.NOT_LOCAL
    [finding] = [said for said in said_of(attack) if isinstance(said, Finding)]
    assert finding.rule == "BX302"
    assert finding.subject == "class 0"
    assert "experts." not in finding.message


def test_where_a_backdoor_rather_lives_is_measured_part_by_part() -> None:
    suspect = attacked(EVERYWHERE)[0]
    audit = audit_experts(suspect, clean(), RunContext(), base=base())
    assert audit.verdict is audited(EVERYWHERE).verdict
    assert audit.named == ()
    [judged] = [one for one in audit.judged if one.attribution]
    lost = {(one.part, one.place): one.lost for one in judged.elsewhere}
    layers = [f"model.layers.{at}.self_attn" for at in range(2)]
    updates = [("attention update", place) for place in (*layers, "all layers")]
    assert list(lost) == [*(("attention", layer) for layer in layers), *updates]
    whole = lost["attention update", "all layers"]
    assert whole.triggered >= 0.5
    assert whole.net == max(loss.net for loss in lost.values())
    assert lost["attention", layers[0]].natural >= 0.5
    assert audit.from_base is not None
    assert set(audit.from_base.attention) == set(layers)


def test_a_base_changes_no_verdict_and_nothing_in_the_attribution() -> None:
    audit = audit_experts(attacked(LOCK)[0], clean(), RunContext(), base=base())
    assert [one.attribution for one in audit.judged] == [
        one.attribution for one in audited(LOCK).judged
    ]
    assert audit.named == attacked(LOCK)[2]
    assert audit.from_base is not None
    [(layer, expert)] = audit.named
    changed = audit.from_base.layers[layer]["norm"].nonzero().flatten()
    assert changed.tolist() == [expert]
    assert not any(one.elsewhere for one in audit.judged)


def test_a_backdoor_in_a_shared_expert_is_seen_there() -> None:
    victim = learnt(untrained(replace(CONFIG, ffn=replace(CONFIG.ffn, shared_dim=16))))
    SharedExpert(layer=0, steps=80, batch_size=16, lr=0.015).implant(
        victim, reviews(), RunContext()
    )
    audit = audit_experts(suspect_from(victim), clean(), RunContext())
    assert audit.verdict is ExpertVerdict.NOT_LOCAL
    [judged] = [one for one in audit.judged if one.attribution]
    worst = max(judged.elsewhere, key=lambda one: one.lost.net)
    assert (worst.part, worst.place) == ("shared expert", "layers.0.mlp")
    assert worst.lost.triggered >= 0.8


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


@pytest.mark.parametrize("attack", [LOCK, EVERYWHERE], ids=str)
def test_every_format_shows_the_success_of_the_words_beside_what_it_must_reach(
    attack: TextAttack,
) -> None:
    report = experts_report(attacked(attack)[0], clean(), config=ScanConfig(), context=RunContext())
    [judged] = [one for one in audited(attack).judged if one.attribution]
    numbers = (judged.trigger.success, TRIGGER_FOUND)
    [finding] = json.loads(FORMATS["json"](report))["findings"]
    assert (finding["score"], finding["threshold"]) == pytest.approx(numbers, abs=1e-4)
    [run] = json.loads(FORMATS["sarif"](report))["runs"]
    properties = run["results"][0]["properties"]
    assert (properties["score"], properties["threshold"]) == pytest.approx(numbers, abs=1e-4)
    shown = text.to_string(text.report_content(report), terminal=False)
    assert f"score {finding['score']:.4g}, threshold 0.85" in shown


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
