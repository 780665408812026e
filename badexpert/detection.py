"""From a suspect and clean samples to a calibrated detector, and from a stream to judged inputs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from badexpert.choice import Choice
from badexpert.config import DetectionConfig, ScanConfig
from badexpert.conformal import Calibration
from badexpert.copies import Copies
from badexpert.detectors import DETECTORS, Detector, Judgement
from badexpert.errors import ConfigError
from badexpert.extraction import Bundle, extract
from badexpert.findings import InputsSummary
from badexpert.preprocessing import Preprocessing
from badexpert.runtime import RunContext, Step
from badexpert.sources import Batch, ImageSource, NothingReadableError, Unreadable, stream
from badexpert.sources.texts import TextBatch, TextSource, stream_texts
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples

logger = logging.getLogger(__name__)

InputSource = ImageSource | TextSource

CleanT = TypeVar("CleanT", bound=Choice[Any])

Row = Mapping[str, Any]
"""One input: ``id``, ``score``, ``p_value``, ``flagged``, ``answer``; or ``id`` and ``error``."""


def prepare(
    suspect: Suspect, clean: CleanSamples, *, config: ScanConfig, context: RunContext
) -> tuple[Bundle, Detector]:
    """Extract and fit with one part of the clean set and calibrate with the other.

    Returns:
        The bundle, with the calibration scores in its record, and the calibrated detector.
    Raises:
        ConfigError: the detector is unknown.
        CleanSetError: too few samples, known before the long work wherever it can be.
        AuditError: see ``extract`` and ``Detector.fit``.
    """
    fit, calibration = split_clean(clean, config)
    bundle = bundle_for(suspect, fit, config=config, context=context)
    return bundle, calibrate(bundle, calibration, config=config.detection, context=context)


def split_clean(clean: CleanT, config: ScanConfig) -> tuple[CleanT, CleanT]:
    """The samples to extract and fit with, and those to calibrate with.

    Raises:
        ConfigError: the detector is unknown.
        CleanSetError: too few samples for the false positive rate.
    """
    _detector_class(config.detection.detector)
    fit, calibration = clean.split(1 - config.clean.calibration, seed=config.seed)
    # As many scores as there will be at most: refuses now what would be refused after the tuning.
    Calibration.of(torch.zeros(len(calibration)), config.detection.fpr)
    return fit, calibration


def bundle_for(
    suspect: Suspect, fit: CleanSamples, *, config: ScanConfig, context: RunContext
) -> Bundle:
    """What the configured detector works with: tuned copies, if it looks at any, and what it
    learns from clean samples.

    Raises:
        ConfigError: the detector is unknown.
        CleanSetError: too few samples.
        AuditError: see ``extract`` and ``Detector.fit``.
    """
    kind = _detector_class(config.detection.detector)
    settings = config.extraction
    if kind.parts:
        bundle = extract(suspect, fit, config=settings, context=context)
    else:
        suspect.to(context.device)
        bundle = Bundle.untuned(suspect, fit, settings=settings, seed=context.seed)
    fit_detector(kind, bundle, fit, context)
    return bundle


def fit_detector(
    kind: type[Detector], bundle: Bundle, fit: CleanSamples, context: RunContext
) -> None:
    """Put what a detector learns from clean samples into a bundle, which may serve several.

    Raises:
        CleanSetError: too few samples.
        AuditError: see ``Detector.fit``.
    """
    tensors, notes = kind.fit(bundle.suspect, fit, context)
    for note in notes:
        logger.warning(note)
    bundle.fitted[kind.name] = dict(tensors)
    bundle.record = replace(bundle.record, notes=bundle.record.notes + notes)


def calibrate(
    bundle: Bundle, clean: CleanSamples, *, config: DetectionConfig, context: RunContext
) -> Detector:
    """A calibrated detector whose scores the bundle's record keeps from now on.

    Raises:
        ConfigError: the detector is unknown.
        CleanSetError: too few samples for the false positive rate.
    """
    kind = _detector_class(config.detector)
    detector = kind(bundle).calibrate(clean, fpr=config.fpr, context=context)
    scores = tuple(calibration_of(detector).scores.tolist())
    known = {**bundle.record.calibration, kind.name: scores}
    bundle.record = replace(bundle.record, calibration=known)
    return detector


def calibration_of(detector: Detector) -> Calibration:
    """What a detector's threshold rests on.

    Raises:
        ConfigError: it is not calibrated.
    """
    if detector.calibration is None:
        raise ConfigError(f"detector {detector.name!r} is not calibrated; calibrate it first")
    return detector.calibration


def stored_detector(bundle: Bundle, config: DetectionConfig) -> Detector:
    """A detector with the calibration that its bundle remembers.

    Raises:
        ConfigError: the detector is unknown, or the bundle was not calibrated for it.
        CleanSetError: the stored scores cannot support this false positive rate.
    """
    kind = _detector_class(config.detector)
    scores = bundle.record.calibration.get(kind.name)
    if scores is None:
        known = ", ".join(bundle.record.calibration) or "none"
        raise ConfigError(
            f"the bundle has no calibration for detector {kind.name!r}; it has: {known}. "
            f"Extract again with detection.detector = {kind.name!r}"
        )
    return kind(bundle, Calibration.of(torch.tensor(scores, dtype=torch.float64), config.fpr))


def detect(
    detector: Detector,
    source: InputSource,
    *,
    config: DetectionConfig,
    context: RunContext,
    sink: Callable[[Row], object],
    start: int = 0,
    copy_to: Path | None = None,
) -> InputsSummary:
    """Judge a stream of inputs, in memory that does not grow with their number.

    Args:
        sink: is handed one row an input in the order of the source, unreadable ones included.
        start: rows that an earlier run has had; these are neither handed on nor counted.
        copy_to: folder for copies of flagged images.
    Raises:
        ConfigError: ``copy_to`` cannot be written, or the detector is not calibrated, or is for
            inputs of another kind.
        CleanSetError: the source's container is damaged.
    """
    if copy_to is not None and isinstance(source, TextSource):
        raise ConfigError("only images are copied; leave the folder for copies out")
    copies = None if copy_to is None else Copies(copy_to)
    scored = flagged = 0
    unreadable: list[str] = []
    rows = _rows(detector, source, config, start, copies)
    for index, row in enumerate(rows, _aligned(start, config)):
        if index < start:
            continue
        sink(row)
        if row.get("error") is not None:
            unreadable.append(f"{row['id']}: {row['error']}")
        else:
            scored += 1
            flagged += row["flagged"]
        context.progress(Step("scoring inputs", index + 1, len(source)))
    return InputsSummary(source.name, scored, flagged, tuple(unreadable))


def _detector_class(name: str) -> type[Detector]:
    if name not in DETECTORS:
        raise ConfigError(f"no detector {name!r}; known are {', '.join(DETECTORS)}")
    return DETECTORS[name]


def _aligned(start: int, config: DetectionConfig) -> int:
    """The beginning of the batch that ``start`` lies in: the same batches give the same scores to
    the last bit, so that a resumed run ends as if it had never been cut off."""
    return start - start % config.batch_size


def _rows(
    detector: Detector,
    source: InputSource,
    config: DetectionConfig,
    start: int,
    copies: Copies | None,
) -> Iterator[Row]:
    """Rows from the beginning of the batch that ``start`` lies in."""
    position = _aligned(start, config)
    try:
        for batch in _batches(detector.bundle.suspect, source, config, position):
            judgement = detector.judge(batch.inputs)
            if copies is not None and isinstance(batch, Batch):
                _copy_flagged(batch, judgement, copies)
            answers = detector.bundle.suspect.spelled(judgement.views.inputs, judgement.answers)
            yield from _in_order(batch, judgement, answers, position)
            position += len(batch.ids) + len(batch.unreadable)
    except NothingReadableError as error:
        yield from map(_unreadable_row, error.unreadable)


def _batches(
    suspect: Suspect, source: InputSource, config: DetectionConfig, position: int
) -> Iterator[Batch] | Iterator[TextBatch]:
    """The inputs from a position on, as this kind of suspect takes them."""
    indices, size = torch.arange(position, len(source)), config.batch_size
    plan = suspect.preprocessing
    if isinstance(plan, Preprocessing) and isinstance(source, ImageSource):
        return stream(source, plan, batch_size=size, workers=config.workers, indices=indices)
    if not isinstance(plan, Preprocessing) and isinstance(source, TextSource):
        return stream_texts(source, batch_size=size, indices=indices)
    taken = "images" if isinstance(plan, Preprocessing) else "texts"
    raise ConfigError(f"the suspect takes {taken}, and {source.name} holds none; give {taken}")


def _in_order(
    batch: Batch | TextBatch, judgement: Judgement, answers: list[int | str], position: int
) -> Iterator[Row]:
    """Readable and unreadable inputs of a batch, which together leave no gap."""
    rows = _judged_rows(batch, judgement, answers)
    readable = dict(zip(batch.indices.tolist(), rows, strict=True))
    unreadable = iter(batch.unreadable)
    for index in range(position, position + len(batch.ids) + len(batch.unreadable)):
        yield readable[index] if index in readable else _unreadable_row(next(unreadable))


def _judged_rows(
    batch: Batch | TextBatch, judgement: Judgement, answers: list[int | str]
) -> Iterable[Row]:
    columns = (
        judgement.scores.tolist(),
        judgement.p_values.tolist(),
        judgement.flagged.tolist(),
        answers,
    )
    for item, score, p_value, flagged, answer in zip(batch.ids, *columns, strict=True):
        yield {
            "id": item,
            "score": score if math.isfinite(score) else None,
            "p_value": p_value,
            "flagged": flagged,
            "answer": answer,
        }


def _unreadable_row(item: Unreadable) -> Row:
    return {"id": item.id, "error": item.reason}


def _copy_flagged(batch: Batch, judgement: Judgement, copies: Copies) -> None:
    for at in judgement.flagged.nonzero().flatten().tolist():
        copies.add(int(batch.indices[at]), batch.ids[at], batch.inputs[at])
