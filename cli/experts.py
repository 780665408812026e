"""``badexpert experts``: whether a backdoor lives in single experts of a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, outputs, reporting, rows, session

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.findings import Report
    from badexpert.runtime import RunContext


def experts(
    suspect: options.Suspect = None,
    adapter: options.Adapter = None,
    base: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=options.MODEL,
            help="Folder of the model that this one was made from: says how experts changed.",
        ),
    ] = None,
    clean: options.Clean = None,
    limit: options.Limit = None,
    inputs: options.Inputs = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=options.OUTPUT,
            help="File for a row an input, as JSON lines, as from 'detect'.",
        ),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=options.DATA,
            metavar="LAYER:EXPERT[,...]",
            help="Score inputs without these experts, whatever the audit finds; named as for "
            "'repair'.",
        ),
    ] = None,
    phrase: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=options.DATA,
            metavar="TEXT",
            help="A response that a model that writes may have been taught; may be given several "
            "times. Else the likeliest ones are looked for.",
        ),
    ] = None,
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
    """Search a Mixture-of-Experts language model for triggers, and name the experts they need."""
    flags = options.given(
        model__source=suspect,
        model__adapter=adapter,
        clean__source=clean,
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
    if experts is not None:
        session.required(settings.inputs.source, "--inputs", "inputs.source")
    with session.running(settings) as context, _rows(settings, scores) as sink:
        report = _report(
            settings,
            context,
            base,
            sink,
            names=[] if experts is None else experts.split(","),
            phrases=phrase or [],
        )
    raise reporting.finish(report, targets, settings.report)


@contextmanager
def _rows(settings: ScanConfig, path: Path | None) -> Iterator[Callable[[rows.Row], object]]:
    """Where rows go; nowhere, if nobody asked for them."""
    if path is None:
        yield lambda row: None
        return
    session.required(settings.inputs.source, "--inputs", "inputs.source")
    belongs_to = {"suspect": settings.model.source, "inputs": settings.inputs.source}
    with rows.open_rows(outputs.Target("json", path), belongs_to=belongs_to, resume=None) as out:
        yield out.write


def _report(
    settings: ScanConfig,
    context: RunContext,
    base: Path | None,
    sink: Callable[[rows.Row], object],
    *,
    names: list[str],
    phrases: list[str],
) -> Report:
    from badexpert.audits.experts import experts_report
    from badexpert.loading.language import load_language_model
    from badexpert.opening import audited, open_inputs, required_clean

    reference = None if base is None else load_language_model(base, device=context.device)
    return audited(
        "experts",
        settings,
        context,
        lambda suspect, clean: experts_report(
            suspect,
            required_clean(clean),
            config=settings,
            context=context,
            base=reference,
            inputs=open_inputs(settings, suspect),
            experts=names,
            phrases=phrases,
            sink=sink,
        ),
    )
