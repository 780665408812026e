"""``badexpert detect``: which inputs look as if they carried a trigger."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import exits, options, outputs, rows, session

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.runtime import RunContext

log = logging.getLogger(__name__)


def detect(
    bundle: Annotated[Path, typer.Argument(help="Folder that 'extract' wrote.")],
    inputs: options.DetectInputs = None,
    model: options.Model = None,
    arch: options.Arch = None,
    fpr: options.Fpr = None,
    device: options.Device = None,
    config: options.Config = None,
    format: options.RowFormat = "json",
    output: options.Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a half-done --output.")
    ] = False,
    copy_flagged: Annotated[
        Path | None,
        typer.Option(help="Folder for flagged images as the model saw them, as PNG."),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score a stream of inputs; a row each, as JSON lines or CSV.

    Flagged inputs are the result and no failure: 'scan --inputs' is the gate.
    """
    flags = options.given(
        model__source=model,
        model__arch=arch,
        inputs__source=inputs,
        detection__fpr=fpr,
        device=device,
    )
    settings = session.start(flags, file=config, quiet=quiet, verbose=verbose).config
    session.required(settings.inputs.source, "INPUTS", "inputs.source")
    [target] = outputs.parse_targets([format], output, rows.RENDERERS)
    if copy_flagged is not None:
        outputs.require_folder(copy_flagged)
    with session.running(settings) as context:
        tally = _detect(bundle, settings, context, target, resume, copy_flagged)
    log.info(
        "%d inputs scored, %d flagged (%.1f expected of clean ones), %d unreadable",
        tally.scored,
        tally.flagged,
        tally.scored * settings.detection.fpr,
        tally.unreadable,
    )
    whole = tally.scored > 0 and tally.unreadable == 0
    raise typer.Exit(exits.ExitCode.OK if whole else exits.ExitCode.INCOMPLETE)


def _detect(
    folder: Path,
    settings: ScanConfig,
    context: RunContext,
    target: outputs.Target,
    resume: bool,
    copy_flagged: Path | None,
) -> rows.Tally:
    from badexpert.detection import calibration_of, detect, stored_detector
    from badexpert.opening import open_bundle, open_inputs

    bundle = open_bundle(folder, settings, context)
    source = open_inputs(settings, bundle.suspect)
    assert source is not None, "required by the command"
    for note in bundle.record.notes:
        log.warning("%s", note)
    detector = stored_detector(bundle, settings.detection)
    log.info(
        "the threshold rests on %d held-out clean samples", len(calibration_of(detector).scores)
    )
    belongs_to = {
        "suspect": bundle.record.suspect,
        "inputs": source.name,
        "count": len(source),
        "detector": detector.name,
        "threshold": detector.threshold,
        "format": target.format,
    }
    with rows.open_rows(target, belongs_to=belongs_to, resume=resume) as out:
        if not out.whole:
            detect(
                detector,
                source,
                config=settings.detection,
                context=context,
                sink=out.write,
                start=out.done,
                copy_to=copy_flagged,
            )
    return out.tally
