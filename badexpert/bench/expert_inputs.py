"""How well a language model's triggered texts are told from clean ones by extraction from it."""

from __future__ import annotations

from dataclasses import dataclass
from time import process_time

from badexpert.bench.metrics import auroc
from badexpert.detectors import BaDExpert
from badexpert.errors import AuditError, CleanSetError
from badexpert.extraction import extract
from badexpert.models.language import TextSuspect
from badexpert.repairing.measured import Trial
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet


@dataclass(frozen=True)
class Detected:
    """What the default detector makes of one model's texts.

    Attributes:
        auroc: triggered texts that succeed against clean ones; None where there are none, or
            nothing could be extracted.
        seconds: of the processor, for the extraction.
        error: why nothing could be extracted.
    """

    auroc: float | None
    seconds: float
    error: str | None = None


def detect_in(
    suspect: TextSuspect, fit: TextCleanSet, trial: Trial, context: RunContext
) -> Detected:
    """Extract with clean texts, and judge others, with and without the trigger."""
    start = process_time()
    try:
        bundle = extract(suspect, fit, context=context)
    except (AuditError, CleanSetError) as error:
        return Detected(None, process_time() - start, str(error))
    seconds = process_time() - start
    assert trial.triggered is not None, "the model has a trigger"
    hits = trial.triggered[suspect.predict(trial.triggered).cpu() == trial.target]
    if not len(hits):
        return Detected(None, seconds)
    detector = BaDExpert(bundle)
    return Detected(auroc(detector.score(trial.clean), detector.score(hits)), seconds)
