"""``badexpert zoo audit``: the expert audit on models whose truth is known."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from . import console, exits, options, outputs, session

log = logging.getLogger(__name__)

TABLES = "tables.md"


def audit(
    zoo: Annotated[
        Path,
        typer.Argument(
            metavar="ZOO",
            help="Folder of language models that 'zoo build' made.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel=options.OUTPUT,
            help="Folder of results; models that are in it are not audited again.",
        ),
    ] = Path("audits"),
    detect: Annotated[
        bool,
        typer.Option(
            "--detect",
            rich_help_panel=options.RUN,
            help="Also extract from every backdoored model, which takes minutes each, and tell its "
            "triggered texts from clean ones.",
        ),
    ] = False,
    only: options.Only = None,
    jobs: options.Jobs = None,
    seed: options.Seed = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Audit the experts of every language model of a zoo, and compare with the truth.

    The folder holds a JSON file for each model and the tables that are printed. The same command
    goes on after an interruption.
    """
    flags = options.given(device=device, seed=seed)
    settings = session.start(flags, file=None, quiet=quiet, verbose=verbose).config
    from badexpert.bench.expert_audits import run_expert_bench
    from badexpert.bench.expert_tables import expert_tables

    with session.running(settings) as context:
        outputs.require_folder(output)
        models = run_expert_bench(zoo, output, context, jobs=jobs, only=only or [], detect=detect)
    text = expert_tables(models)
    outputs.write_atomically(output / TABLES, text)
    console.write_document(text)
    if failed := sum(one.error is not None for one in models):
        log.warning("%d models could not be audited", failed)
        raise typer.Exit(exits.ExitCode.INCOMPLETE)
