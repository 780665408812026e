"""Reports about a model that was looked at, or refused, and not tuned."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from badexpert.cleanset import CleanSet
from badexpert.config import ScanConfig
from badexpert.describe import Stopwatch, describe_clean_set, describe_suspect, versions
from badexpert.errors import CleanSetError, UnsafeModelError
from badexpert.findings import AuditState, AuditStatus, Finding, Json, Report, Verdict
from badexpert.loading.inspection import AccuracyCheck, Inspection, inspect_suspect
from badexpert.loading.text_inspection import inspect_text_suspect
from badexpert.models.language import TextSuspect
from badexpert.models.origin import digest_file
from badexpert.models.vision import VisionSuspect
from badexpert.rules import BETTER_SETTING, NEAR_CHANCE, UNSAFE_FILE
from badexpert.runtime import RunContext, Step
from badexpert.settings import to_json
from badexpert.suppression import suppress
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples, TextCleanSet

log = logging.getLogger(__name__)

AUDIT = "accuracy"


def inspection_report(
    suspect: Suspect, clean: CleanSamples | None, *, config: ScanConfig, context: RunContext
) -> Report:
    """Describe the suspect and check its accuracy on the clean set, if there is one.

    Returns:
        A report whose verdict is open: nothing here looks for a backdoor.
    Raises:
        CleanSetError: no clean image can be read.
    """
    watch = Stopwatch()
    with watch.measure("inspection"):
        inspection = inspected(suspect, clean, config, context)
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
        audits=(accuracy_status(inspection.check, clean),),
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


def accuracy_status(check: AccuracyCheck | None, clean: CleanSamples | None) -> AuditStatus:
    """Whether the accuracy was checked, and what it is."""
    if check is None:
        reason = "no clean set was given" if clean is None else "responses are not right or wrong"
        return AuditStatus(AUDIT, AuditState.SKIPPED, reason=reason)
    summary = f"{check.accuracy:.1%} of {check.samples} clean samples are classified correctly"
    return AuditStatus(AUDIT, AuditState.DONE, summary=summary)


def inspected(
    suspect: Suspect, clean: CleanSamples | None, config: ScanConfig, context: RunContext
) -> Inspection:
    """What was understood of a suspect, with its accuracy on the clean set, if there is one.

    Raises:
        CleanSetError: the clean set is of another kind than the suspect, or cannot be read.
    """
    if isinstance(suspect, VisionSuspect) and not isinstance(clean, TextCleanSet):
        images = None if clean is None else labelled_batches(clean, config, context)
        return inspect_suspect(suspect, images)
    if isinstance(suspect, TextSuspect) and not isinstance(clean, CleanSet):
        labelled = clean is not None and not clean.responses
        texts = labelled_batches(clean, config, context) if clean is not None and labelled else None
        return inspect_text_suspect(suspect, texts)
    raise CleanSetError(f"{suspect.origin.source} and the clean set are of different kinds")


def labelled_batches(
    clean: CleanSamples, config: ScanConfig, context: RunContext
) -> Iterator[tuple[Any, Tensor]]:
    """The whole clean set, for a check of the accuracy: inputs with their labels."""
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


def clean_facts(clean: CleanSamples | None, check: AccuracyCheck | None) -> dict[str, Json]:
    """What the clean set is, and the suspect's accuracy on it."""
    if clean is None:
        return {}
    accuracy = {} if check is None else {"accuracy": check.accuracy}
    return {**describe_clean_set(clean), **accuracy}


def _digest(path: Path) -> str | None:
    return digest_file(path).sha256 if path.is_file() else None
