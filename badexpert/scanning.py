"""The whole audit of a model: a pure function from suspect, clean set and inputs to a report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from badexpert.audits import AUDITS
from badexpert.config import LOW_RANK, ScanConfig
from badexpert.describe import Stopwatch, describe_suspect, versions
from badexpert.detection import (
    InputSource,
    bundle_for,
    calibrate,
    calibration_of,
    detect,
    split_clean,
)
from badexpert.detectors import Detector
from badexpert.errors import AuditError, CleanSetError
from badexpert.extraction import Bundle
from badexpert.extraction.comparison import EXPERTS
from badexpert.findings import AuditState, AuditStatus, Finding, InputsSummary, Report, Verdict
from badexpert.flagged import AUDIT as INPUTS
from badexpert.flagged import Excess, Flagged, inputs_status
from badexpert.inspection_report import (
    accuracy_findings,
    accuracy_status,
    clean_facts,
    inspected,
    structure_facts,
)
from badexpert.rules import DECISIVE
from badexpert.runtime import RunContext
from badexpert.settings import to_json
from badexpert.suppression import suppress
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples

log = logging.getLogger(__name__)

EXTRACTION = "extraction"
CALIBRATION = "calibration"
MODEL = "model"


def scan(
    suspect: Suspect,
    clean: CleanSamples,
    *,
    inputs: InputSource | None = None,
    config: ScanConfig | None = None,
    context: RunContext | None = None,
) -> Report:
    """Audit a model: check its accuracy, extract, calibrate, judge the inputs, report.

    The verdict is ``backdoored`` when far more inputs are flagged than clean ones would be and
    most of them are unlike every clean sample, or when an audit of the model itself found a
    trigger. Else it is open: what no audit found may be there.

    Args:
        suspect: is not changed.
        clean: one part is tuned on, the other calibrates the threshold.
        inputs: to be scored; labels are not needed.
    Returns:
        A report in which the failure of one part hides the findings of no other.
    Raises:
        CleanSetError: too few clean samples, or none that can be read.
        ConfigError: the detector is unknown.
    """
    config = config if config is not None else ScanConfig()
    context = context if context is not None else RunContext(seed=config.seed)
    run = _Run()
    fit, held_out = split_clean(clean, config)
    with run.watch.measure("inspection"):
        inspection = inspected(suspect, clean, config, context)
    run.findings += accuracy_findings(inspection.check)
    run.audits.append(accuracy_status(inspection.check, clean))
    detector = _prepare(run, suspect, fit, held_out, config, context)
    excess, summary = _judge(run, detector, inputs, clean, config, context)
    _run_audits(run, suspect, clean, context)
    report = Report(
        command="scan",
        suspect={**describe_suspect(suspect), **structure_facts(inspection)},
        clean_set=clean_facts(clean, inspection.check),
        configuration=to_json(config),
        versions=versions(),
        seed=context.seed,
        verdict=_verdict(excess, run.findings),
        complete=run.complete and not clean.unreadable and not (summary and summary.unreadable),
        findings=tuple(sorted(run.findings, key=lambda finding: -finding.severity)),
        audits=tuple(run.audits),
        clock=run.watch.read(),
        inputs=summary,
    )
    return suppress(report, config.ignore)


def _verdict(excess: Excess | None, findings: list[Finding]) -> Verdict:
    """Open, unless inputs or the model itself decide it."""
    if (excess and excess.decisive) or any(finding.rule in DECISIVE for finding in findings):
        return Verdict.BACKDOORED
    return Verdict.INCONCLUSIVE


@dataclass
class _Run:
    """What the parts of a scan leave behind."""

    watch: Stopwatch = field(default_factory=Stopwatch)
    findings: list[Finding] = field(default_factory=list)
    audits: list[AuditStatus] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part; if it fails, say so, and go on with the others."""
        try:
            with self.watch.measure(name):
                yield
        except (AuditError, CleanSetError) as error:
            log.error("%s failed: %s", name, error)
            self.audits.append(AuditStatus(name, AuditState.FAILED, reason=str(error)))

    def skip(self, name: str, reason: str) -> None:
        """Say that a part did not run."""
        self.audits.append(AuditStatus(name, AuditState.SKIPPED, reason=reason))

    @property
    def complete(self) -> bool:
        """Nothing failed."""
        return all(status.state is not AuditState.FAILED for status in self.audits)


def _prepare(
    run: _Run,
    suspect: Suspect,
    fit: CleanSamples,
    held_out: CleanSamples,
    config: ScanConfig,
    context: RunContext,
) -> Detector | None:
    """Extract and calibrate; None when either failed."""
    detector = None
    with run.part(EXTRACTION):
        bundle = bundle_for(suspect, fit, config=config, context=context)
        run.audits.append(extraction_status(bundle))
        with run.part(CALIBRATION):
            detector = calibrate(bundle, held_out, config=config.detection, context=context)
            run.audits.append(calibration_status(detector))
    return detector


def extraction_status(bundle: Bundle) -> AuditStatus:
    """What is left of the suspect's function in its tuned copies: evidence, not a verdict."""
    record = bundle.record
    if not bundle.parts:
        reasons = ("this detector needs no tuned copies", *record.notes)
        return AuditStatus(EXTRACTION, AuditState.SKIPPED, reason="; ".join(reasons))
    accuracies = ", ".join(f"{part} {value:.1%}" for part, value in record.clean_accuracy.items())
    steps = {part: beats[-1].step for part, beats in record.trajectories.items() if beats}
    steps = {part: steps[part] for part in EXPERTS if part in steps}
    what = "low-rank updates of " if record.copies == LOW_RANK else ""
    facts = (
        f"clean accuracy: {accuracies}",
        f"{what}the last {record.cut.tail_share:.1%} of the network's operations were tuned",
        *(f"{part} expert: {count} steps" for part, count in steps.items()),
        *record.notes,
    )
    return AuditStatus(
        EXTRACTION,
        AuditState.DONE,
        summary="; ".join(facts),
        evidence={
            "clean_accuracy": dict(record.clean_accuracy),
            "samples": dict(record.samples),
            "steps": steps,
            "share_of_operations_tuned": record.cut.tail_share,
            "copies": record.copies,
            "notes": list(record.notes),
        },
    )


def calibration_status(detector: Detector) -> AuditStatus:
    """What the threshold promises, and on how many samples the promise rests."""
    calibration = calibration_of(detector)
    samples, bound = len(calibration.scores), calibration.fpr_bound()
    return AuditStatus(
        CALIBRATION,
        AuditState.DONE,
        summary=f"on {samples} held-out clean samples: at most {calibration.fpr:.3g} of clean "
        f"inputs are flagged on average, and less than {bound:.3g} with 95 % confidence",
        evidence={
            "detector": detector.name,
            "samples": samples,
            "fpr": calibration.fpr,
            "fpr_bound_95": bound,
            "threshold": detector.threshold,
        },
    )


def _judge(
    run: _Run,
    detector: Detector | None,
    inputs: InputSource | None,
    clean: CleanSamples,
    config: ScanConfig,
    context: RunContext,
) -> tuple[Excess | None, InputsSummary | None]:
    """Score the inputs; what was flagged before a failure counts."""
    if inputs is None:
        run.skip(INPUTS, "no inputs were given, so nothing was searched for a trigger")
        return None, None
    if detector is None:
        run.skip(INPUTS, "there is no calibrated detector to score them with")
        return None, None
    flagged = Flagged(calibration_of(detector), frozenset(clean.missing_classes))
    summary = None
    with run.part(INPUTS):
        summary = detect(
            detector, inputs, config=config.detection, context=context, sink=flagged.add
        )
        run.audits.append(inputs_status(summary, config.detection.fpr))
    excess = Excess.of(flagged)
    run.findings += excess.findings()
    return excess, summary


def _run_audits(run: _Run, suspect: Suspect, clean: CleanSamples, context: RunContext) -> None:
    if not any(audit.applies(suspect) for audit in AUDITS.values()):
        run.skip(
            MODEL,
            "this version has no audit that looks for a backdoor in the model itself, for models "
            "of this kind, so it can call none clean",
        )
    for name, audit in AUDITS.items():
        if not audit.applies(suspect):
            run.skip(name, "does not apply to this model")
            continue
        before = len(run.findings)
        with run.part(name):
            status = None
            for said in audit.run(suspect, clean, context):
                if isinstance(said, Finding):
                    run.findings.append(said)
                else:
                    status = said
            summary = f"{len(run.findings) - before} findings"
            run.audits.append(status or AuditStatus(name, AuditState.DONE, summary=summary))
