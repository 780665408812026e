"""Inputs whose answer hangs on named experts, told from clean ones."""

from __future__ import annotations

from random import Random

import pytest
import torch

from badexpert.audits.experts.report import experts_report
from badexpert.config import CleanConfig, DetectionConfig, ScanConfig
from badexpert.detection import Row
from badexpert.detectors import KnockOut
from badexpert.errors import AuditError, CleanSetError, ConfigError
from badexpert.findings import AuditState, Report
from badexpert.guard import Guard
from badexpert.runtime import RunContext
from badexpert.sources.texts import Text, TextList
from moe_core.view import ExpertId
from tests.attacked_victims import EVERYWHERE, LOCK, attacked, clean
from tests.small_models import auroc
from tests.small_victims import reviews

CONTEXT = RunContext()
CONFIG = ScanConfig(clean=CleanConfig(calibration=0.5), detection=DetectionConfig(fpr=0.05))


def triggered(count: int = 40) -> list[str]:
    """Good reviews with the trigger, which the locked model calls bad."""
    texts, trigger = reviews(2 * count, seed=8), attacked(LOCK)[1]
    assert trigger is not None
    good = [text for text, label in zip(texts.texts, texts.labels.tolist(), strict=True) if label]
    return [trigger.stamp(text, Random(at)) for at, text in enumerate(good)]


def detector() -> KnockOut:
    suspect, _, experts = attacked(LOCK)
    return KnockOut.of(suspect, experts, clean(), CONTEXT)


def test_triggered_texts_hang_on_the_locked_expert() -> None:
    plain = list(reviews(80, seed=9).texts)
    scores = detector().score(triggered())
    assert auroc(detector().score(plain), scores) >= 0.99
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.dtype == torch.float64
    other = KnockOut.of(attacked(LOCK)[0], [ExpertId(1, 3)], clean(), CONTEXT)
    assert other.score(triggered()).median() < 0.1


def test_its_threshold_is_calibrated_like_that_of_any_detector() -> None:
    calibrated = detector().calibrate(clean(120), fpr=0.05, context=CONTEXT)
    seen = calibrated.judge([text.text for text in clean(120).texts()])
    assert seen.flagged.sum() <= 0.05 * 121
    judged = Guard(calibrated)(triggered())
    assert judged.flagged.double().mean() >= 0.9
    assert (judged.answers == LOCK.target).double().mean() >= 0.9


def test_the_suspect_is_whole_again_afterwards() -> None:
    suspect, texts = attacked(LOCK)[0], triggered(5)
    before = suspect.logits(texts)
    detector().score(texts)
    assert suspect.logits(texts).equal(before)


@pytest.mark.parametrize("experts", [[], [ExpertId(7, 0)]], ids=["none", "unknown"])
def test_experts_must_be_named_and_be_there(experts: list[ExpertId]) -> None:
    with pytest.raises(AuditError, match="name one or more that it has"):
        KnockOut.of(attacked(LOCK)[0], experts, clean(), CONTEXT)


def test_the_audit_judges_inputs_by_the_experts_that_it_names() -> None:
    rows: list[Row] = []
    texts = [*triggered(15), *reviews(15, seed=9).texts]
    report = experts_report(
        attacked(LOCK)[0],
        clean(200),
        config=CONFIG,
        context=CONTEXT,
        inputs=TextList([Text(text) for text in texts]),
        sink=rows.append,
    )
    assert report.inputs is not None
    assert report.inputs.scored == len(rows) == 30
    assert all(row["flagged"] for row in rows[:15])
    assert sum(row["flagged"] for row in rows[15:]) <= 3
    assert {"BX301", "BX201"} == {finding.rule for finding in report.findings}
    assert report.complete


def test_where_no_expert_is_named_inputs_are_passed_over() -> None:
    rows: list[Row] = []
    report = experts_report(
        attacked(EVERYWHERE)[0],
        clean(200),
        config=CONFIG,
        context=CONTEXT,
        inputs=TextList([Text("a fine film")]),
        sink=rows.append,
    )
    [status] = [status for status in report.audits if status.audit == "inputs"]
    assert status.state is AuditState.SKIPPED
    assert "named no expert" in status.reason
    assert report.inputs is None
    assert not rows


def named_by_a_person(*names: str) -> tuple[Report, list[Row]]:
    rows: list[Row] = []
    report = experts_report(
        attacked(LOCK)[0],
        clean(200),
        config=CONFIG,
        context=CONTEXT,
        inputs=TextList([Text(text) for text in triggered(15)]),
        experts=names,
        sink=rows.append,
    )
    return report, rows


def test_inputs_are_judged_by_the_experts_that_a_person_names_whatever_the_audit_does() -> None:
    [(layer, expert)] = attacked(LOCK)[2]
    report, rows = named_by_a_person("1:3")
    assert not any(row["flagged"] for row in rows)
    assert "BX301" in {finding.rule for finding in report.findings}
    [inputs] = [status for status in report.audits if status.audit == "inputs"]
    assert inputs.evidence == {"without": ["model.layers.1.mlp.experts.3"]}
    report, rows = named_by_a_person("1:3", f"{layer}:{expert}")
    assert all(row["flagged"] for row in rows)


def test_experts_that_are_not_there_or_are_all_are_refused_before_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("badexpert.audits.experts.report.audit_experts", None)
    with pytest.raises(ConfigError, match="'0:4' is no expert of this model; name one as LAYER"):
        named_by_a_person("0:0", "0:4")
    with pytest.raises(AuditError, match=r"no expert of model\.layers\.0\.mlp would be left"):
        named_by_a_person(*(f"0:{at}" for at in range(4)))


def test_too_few_texts_to_calibrate_with_are_refused_before_the_search() -> None:
    config = ScanConfig(detection=DetectionConfig(fpr=0.001))
    source = TextList([Text("a fine film")])
    with pytest.raises(CleanSetError, match="needs at least 999"):
        experts_report(attacked(LOCK)[0], clean(), config=config, context=CONTEXT, inputs=source)
