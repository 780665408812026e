"""Inputs whose answer hangs on some experts: those that the audit named, or the user did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from badexpert.audits.experts.named import full_name
from badexpert.config import DetectionConfig
from badexpert.detection import InputSource, Row, calibration_of, detect
from badexpert.detectors import KnockOut
from badexpert.findings import AuditState, AuditStatus, Finding, InputsSummary, Json
from badexpert.flagged import AUDIT, Excess, Flagged, inputs_status
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet
from moe_core.view import ExpertId, ExpertView


@dataclass(frozen=True)
class JudgedInputs:
    """What knock-outs say about inputs.

    Attributes:
        status: among the checks.
        findings: about flagged inputs; the verdict is that of the experts that were named.
        summary: None where no expert was named.
    """

    status: AuditStatus
    findings: tuple[Finding, ...] = ()
    summary: InputsSummary | None = None


def judge_inputs(
    suspect: TextSuspect,
    experts: Sequence[ExpertId],
    clean: tuple[TextCleanSet, TextCleanSet],
    source: InputSource,
    *,
    config: DetectionConfig,
    context: RunContext,
    sink: Callable[[Row], object],
) -> JudgedInputs:
    """Score inputs by what some experts do for them, with a calibrated threshold.

    Args:
        experts: to be taken away; without any, no input is scored.
        clean: texts that the audit has seen, and texts that it has not.
        sink: is handed one row an input.
    """
    if not experts:
        reason = "the audit named no expert, so there is none to take away"
        return JudgedInputs(AuditStatus(AUDIT, AuditState.SKIPPED, reason=reason))
    seen, unseen = clean
    detector = KnockOut.of(suspect, experts, seen, context)
    detector = detector.calibrate(unseen, fpr=config.fpr, context=context)
    flagged = Flagged(calibration_of(detector), frozenset(unseen.missing_classes))

    def note(row: Row) -> None:
        flagged.add(row)
        sink(row)

    summary = detect(detector, source, config=config, context=context, sink=note)
    findings = tuple(Excess.of(flagged).findings())
    view = ExpertView.of(suspect.module)
    taken: dict[str, Json] = {"without": [full_name(view, expert) for expert in experts]}
    status = replace(inputs_status(summary, config.fpr), evidence=taken)
    return JudgedInputs(status, findings, summary)
