"""``badexpert experts``: whether a backdoor lives in single experts of a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import options, reporting, session

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.findings import Report
    from badexpert.runtime import RunContext


def experts(
    suspect: options.Suspect = None,
    adapter: options.Adapter = None,
    clean: options.Clean = None,
    limit: options.Limit = None,
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
    """Search a Mixture-of-Experts language model for triggers, and name the experts they need."""
    flags = options.given(
        model__source=suspect,
        model__adapter=adapter,
        clean__source=clean,
        clean__limit=limit,
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
    from badexpert.audits.experts import experts_report
    from badexpert.opening import audited, required_clean

    return audited(
        "experts",
        settings,
        context,
        lambda suspect, clean: experts_report(
            suspect, required_clean(clean), config=settings, context=context
        ),
    )
