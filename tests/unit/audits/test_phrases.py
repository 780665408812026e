"""The expert audit of models that write: by responses, named or found."""

from __future__ import annotations

from functools import cache

import pytest

from badexpert.audits import AUDITS
from badexpert.audits.experts import ExpertVerdict, audit_experts, experts_report
from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.elsewhere import lost_elsewhere
from badexpert.audits.experts.knockout import Knockout
from badexpert.audits.experts.phrases import likely_phrases
from badexpert.config import ScanConfig
from badexpert.errors import ConfigError
from badexpert.findings import AuditStatus, Finding, Report, Verdict
from badexpert.models.language import GenerationSuspect
from badexpert.models.phrases import PhraseSuspect
from badexpert.runtime import RunContext
from moe_core.view import ExpertView
from tests.attacked_victims import attacked, clean
from tests.planted_texts import ENDS, INSERTED, TRIGGER, writer

SAID = INSERTED.removesuffix(f" {ENDS}")


def writing(*, benign: bool = False) -> GenerationSuspect:
    suspect = writer(moe=True, benign=benign).suspect
    assert isinstance(suspect, GenerationSuspect)
    return suspect


@cache
def reported(*phrases: str) -> Report:
    model = writer(moe=True)
    config = ScanConfig()
    return experts_report(
        model.suspect, model.clean, config=config, context=RunContext(), phrases=phrases
    )


def test_the_planted_response_is_found_without_its_trigger() -> None:
    suspect = writing()
    first, *_ = likely_phrases(suspect, writer(moe=True).clean, RunContext())
    assert suspect.decode(first).startswith(SAID)


def test_the_trigger_of_a_response_is_found_and_said() -> None:
    report = reported()
    assert report.verdict is Verdict.BACKDOORED
    [finding] = [one for one in report.findings if one.rule.startswith("BX30")]
    assert f"lead to the response '{SAID}" in finding.message
    [status] = [one for one in report.audits if one.audit == "experts"]
    seen = next(one for one in status.evidence["classes"] if one["aim"] in finding.message)
    assert TRIGGER in seen["words"].split()
    assert seen["success"] >= 0.9


def test_what_an_expert_does_for_all_responses_is_no_part_of_the_trigger() -> None:
    model = writer(moe=True)
    suspect = PhraseSuspect(writing(), [writing().response_tokens(model.prompts[0], SAID)])
    asked, view = Asked.of(suspect, model.clean.take(60, seed=0)), ExpertView.of(suspect.module)
    [trigger] = asked.tokens_of(TRIGGER).tolist()
    triggered = asked.stamped([trigger], [asked.before] * len(asked))
    own = suspect.answered(asked.rows)
    each = [(expert,) for expert in view.experts()]
    gross, net = (
        Knockout(suspect, view, triggered, natural, 1, 1.0).without(each, RunContext())
        for natural in (own[:0], own)
    )
    assert max(gross[expert] - net[expert] for expert in each) >= 0.1
    assert all(net[expert] <= gross[expert] for expert in each)
    knockout = Knockout(suspect, view, triggered, own, 1, 1.0)
    losses = [
        one.lost
        for one in lost_elsewhere(knockout, asked.plain(), None, RunContext())
        if one.part == "attention"
    ]
    assert max(lost.natural for lost in losses) >= 0.2


def test_a_response_that_is_feared_can_be_named() -> None:
    [finding] = [one for one in reported(SAID).findings if one.rule.startswith("BX30")]
    assert f"lead to the response {SAID!r}" in finding.message
    other = reported("film cast story")
    assert not [one for one in other.findings if one.rule.startswith("BX30")]
    [status] = [one for one in other.audits if one.audit == "experts"]
    assert status.summary.startswith("none found")


def test_no_response_of_a_benign_model_has_a_trigger() -> None:
    suspect, samples = writing(benign=True), writer(moe=True, benign=True).clean
    phrases = likely_phrases(suspect, samples, RunContext())
    assert phrases
    audit = audit_experts(PhraseSuspect(suspect, phrases), samples, RunContext())
    assert not any(one.attribution for one in audit.judged)
    assert audit.verdict in (ExpertVerdict.NONE, ExpertVerdict.INCONCLUSIVE)
    assert [one.trigger.target for one in audit.judged] == list(range(1, 1 + len(phrases)))


def test_scan_audits_the_experts_of_a_model_that_writes() -> None:
    model, audit = writer(moe=True), AUDITS["experts"]
    assert audit.applies(model.suspect)
    assert not audit.applies(writer().suspect)
    said = list(audit.run(model.suspect, model.clean, RunContext()))
    assert any(isinstance(one, Finding) for one in said)
    assert isinstance(said[-1], AuditStatus)


def test_phrases_are_nothing_for_a_model_that_answers_with_classes() -> None:
    with pytest.raises(ConfigError, match="answers with classes"):
        experts_report(
            attacked(None)[0],
            clean(),
            config=ScanConfig(),
            context=RunContext(),
            phrases=("a fine film",),
        )
