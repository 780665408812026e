"""Reports about a model that was looked at, or refused, and not tuned."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from badexpert.cleanset import CleanSet
from badexpert.config import ScanConfig
from badexpert.describe import Stopwatch, describe_clean_set, describe_suspect, versions
from badexpert.errors import UnsafeModelError
from badexpert.findings import AuditState, AuditStatus, Finding, Json, Report, Verdict
from badexpert.loading.inspection import AccuracyCheck, Inspection, inspect_suspect
from badexpert.models.origin import digest_file
from badexpert.models.vision import VisionSuspect
from badexpert.rules import BETTER_SETTING, NEAR_CHANCE, UNSAFE_FILE
from badexpert.runtime import RunContext, Step
from badexpert.settings import to_json
from badexpert.suppression import suppress

log = logging.getLogger(__name__)

AUDIT = "accuracy"


def inspection_report(
    suspect: VisionSuspect, clean: CleanSet | None, *, config: ScanConfig, context: RunContext
) -> Report:
    """Describe the suspect and check its accuracy on the clean set, if there is one.

    Returns:
        A report whose verdict is open: nothing here looks for a backdoor.
    Raises:
        CleanSetError: no clean image can be read.
    """
    watch = Stopwatch()
    with watch.measure("inspection"):
        batches = None if clean is None else labelled_batches(clean, config, context)
        inspection = inspect_suspect(suspect, batches)
    report = Report(
        command="inspect",
        suspect={**describe_suspect(suspect), **structure_facts(inspection)},
        clean_set=clean_facts(clean, inspection.check),
        configuration=to_json(config),
        versions=versions(),
        seed=context.seed,
        verdict=Verdict.INCONCLUSIVE,
        complete=clean is None or not clean.unreadable,
        findings=tuple(accuracy_findings(inspection.check)),
        audits=(accuracy_status(inspection.check),),
        clock=watch.read(),
    )
    return suppress(report, config.ignore)


def refusal_report(
    command: str, source: str, error: UnsafeModelError, *, config: ScanConfig
) -> Report:
    """The report about a file that was refused as unsafe, instead of being audited."""
    report = Report(
        command=command,
        suspect={"path": source, "sha256": _digest(Path(source))},
        clean_set={},
        configuration=to_json(config),
        versions=versions(),
        seed=config.seed,
        verdict=Verdict.INCONCLUSIVE,
        complete=False,
        findings=(Finding(UNSAFE_FILE.id, UNSAFE_FILE.severity, str(error)),),
        audits=(AuditStatus("load", AuditState.FAILED, reason="the file was refused as unsafe"),),
        clock=Stopwatch().read(),
    )
    return suppress(report, config.ignore)


def accuracy_findings(check: AccuracyCheck | None) -> Iterator[Finding]:
    """What the accuracy on clean samples says about how the model was understood; also logged."""
    if check is None:
        return
    hints = [hint.message for hint in check.hints]
    if check.near_chance:
        message = (
            f"accuracy on {check.samples} clean samples is {check.accuracy:.3f}, near the "
            f"{check.chance:.3f} of guessing; check preprocessing, classes and architecture"
        )
        log.warning("%s", message)
        yield Finding(
            NEAR_CHANCE.id,
            NEAR_CHANCE.severity,
            message,
            p_value=check.p_value,
            evidence={"hints": hints} if hints else {},
        )
    for hint in check.hints:
        log.warning("try this: %s", hint.message)
        yield Finding(BETTER_SETTING.id, BETTER_SETTING.severity, hint.message)


def accuracy_status(check: AccuracyCheck | None) -> AuditStatus:
    """Whether the accuracy was checked, and what it is."""
    if check is None:
        return AuditStatus(AUDIT, AuditState.SKIPPED, reason="no clean set was given")
    summary = f"{check.accuracy:.1%} of {check.samples} clean samples are classified correctly"
    return AuditStatus(AUDIT, AuditState.DONE, summary=summary)


def labelled_batches(
    clean: CleanSet, config: ScanConfig, context: RunContext
) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole clean set, for a check of the accuracy."""
    done = 0
    detection = config.detection
    for batch in clean.batches(detection.batch_size, workers=detection.workers):
        if batch.labels is None:
            raise ValueError("a clean set has labels")
        yield batch.inputs, batch.labels
        done += len(batch.ids)
        context.progress(Step("checking the accuracy", done, len(clean)))


def structure_facts(inspection: Inspection) -> dict[str, Json]:
    """What looking at the network added to what its files say."""
    return {"layers": asdict(inspection.layers), "deterministic": inspection.deterministic}


def clean_facts(clean: CleanSet | None, check: AccuracyCheck | None) -> dict[str, Json]:
    """What the clean set is, and the suspect's accuracy on it."""
    if clean is None or check is None:
        return {}
    return {**describe_clean_set(clean), "accuracy": check.accuracy}


def _digest(path: Path) -> str | None:
    return digest_file(path).sha256 if path.is_file() else None
