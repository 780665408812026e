"""``badexpert scan``: the whole audit, from a model to a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import options, reporting, session

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.findings import Report
    from badexpert.runtime import RunContext


def scan(
    suspect: options.Suspect = None,
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
    inputs: options.Inputs = None,
    fpr: options.Fpr = None,
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    format: options.Formats = None,
    output: options.Output = None,
    fail_on: options.FailOn = None,
    allow_inconclusive: options.AllowInconclusive = None,
    exit_zero: options.ExitZero = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Audit a model: extract, calibrate, judge what can be judged, report."""
    flags = options.given_model(suspect, arch, num_classes, size, channels, mean, std)
    flags |= options.given(
        model__adapter=adapter,
        clean__source=clean,
        clean__root=root,
        clean__limit=limit,
        inputs__source=inputs,
        detection__fpr=fpr,
        device=device,
        seed=seed,
        report__formats=format,
        report__fail_on=fail_on,
        report__allow_inconclusive=allow_inconclusive,
        report__exit_zero=exit_zero,
    )
    settings = session.start(flags, file=config, quiet=quiet, verbose=verbose).config
    targets = reporting.targets_of(settings.report, output)
    with session.running(settings) as context:
        report = _report(settings, context)
    raise reporting.finish(report, targets, settings.report)


def _report(settings: ScanConfig, context: RunContext) -> Report:
    from badexpert.opening import audited, open_inputs, required_clean
    from badexpert.scanning import scan

    return audited(
        "scan",
        settings,
        context,
        lambda suspect, clean: scan(
            suspect,
            required_clean(clean),
            inputs=open_inputs(settings, suspect),
            config=settings,
            context=context,
        ),
    )
