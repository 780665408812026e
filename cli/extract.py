"""``badexpert extract``: tune the backdoor expert and the auxiliary, and keep them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import console, options, outputs, session

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.extraction import Bundle
    from badexpert.runtime import RunContext


def extract(
    suspect: options.Suspect = None,
    output: options.Folder = Path("bundle"),
    arch: options.Arch = None,
    adapter: options.Adapter = None,
    num_classes: options.NumClasses = None,
    size: options.Size = None,
    channels: options.Channels = None,
    mean: options.Mean = None,
    std: options.Std = None,
    clean: options.Clean = None,
    root: options.CleanRoot = None,
    limit: options.Limit = None,
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Extract the backdoor functionality of a model into a bundle that 'detect' works with."""
    flags = options.given_model(suspect, arch, num_classes, size, channels, mean, std)
    flags |= options.given(
        model__adapter=adapter,
        clean__source=clean,
        clean__root=root,
        clean__limit=limit,
        device=device,
        seed=seed,
    )
    settings = session.start(flags, file=config, quiet=quiet, verbose=verbose).config
    outputs.require_new_folder(output)
    with session.running(settings) as context:
        bundle = _extract(settings, context)
    with outputs.new_folder(output) as folder:
        bundle.save(folder)
    console.write_document(_summary(output, bundle))


def _extract(settings: ScanConfig, context: RunContext) -> Bundle:
    from badexpert.detection import prepare
    from badexpert.opening import open_subjects, required_clean

    suspect, clean = open_subjects(settings, context)
    return prepare(suspect, required_clean(clean), config=settings, context=context)[0]


def _summary(folder: Path, bundle: Bundle) -> str:
    from . import text

    record = bundle.record
    values = {
        "suspect": record.suspect,
        "samples": {**record.samples, "calibration": _calibration_samples(bundle)},
        "clean_accuracy": record.clean_accuracy,
        "notes": list(record.notes),
    }
    content = text.facts(f"Bundle {folder}", values)
    return text.to_string(content, terminal=True).lstrip("\n")


def _calibration_samples(bundle: Bundle) -> int:
    return max(len(scores) for scores in bundle.record.calibration.values())
