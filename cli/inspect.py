"""``badexpert inspect``: what was understood of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from . import options, reporting, session

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.findings import Report
    from badexpert.runtime import RunContext


def inspect(
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
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    format: options.Formats = None,
    output: options.Output = None,
    fail_on: options.FailOn = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what was understood of a model, and check its accuracy on clean samples.

    An open verdict is no failure here: nothing looks for a backdoor yet.
    """
    flags = options.given_model(suspect, arch, num_classes, size, channels, mean, std)
    flags |= options.given(
        model__adapter=adapter,
        clean__source=clean,
        clean__root=root,
        clean__limit=limit,
        device=device,
        seed=seed,
        report__formats=format,
        report__fail_on=fail_on,
    )
    settings = session.start(flags, file=config, quiet=quiet, verbose=verbose).config
    policy = replace(settings.report, allow_inconclusive=True)
    targets = reporting.targets_of(policy, output)
    with session.running(settings) as context:
        report = _report(settings, context)
    raise reporting.finish(report, targets, policy)


def _report(settings: ScanConfig, context: RunContext) -> Report:
    from badexpert.inspection_report import inspection_report
    from badexpert.opening import audited

    return audited(
        "inspect",
        settings,
        context,
        lambda suspect, clean: inspection_report(suspect, clean, config=settings, context=context),
    )
