"""``badexpert zoo``: many models with known truth, from one recipe; audits of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, exits, options, outputs, session, zoo_audit
from .pairs import pairs

if TYPE_CHECKING:
    from badexpert.runtime import RunContext
    from badexpert.zoo import Index
    from badexpert.zoo.text import TextIndex

app = typer.Typer(help="Models to measure detectors on.", no_args_is_help=True)


app.command(epilog=exits.HELP)(zoo_audit.audit)


@app.callback()
def _root() -> None:
    pass


@app.command(epilog=exits.HELP)
def build(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="Such as configs/zoo-smoke.toml.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", rich_help_panel=options.OUTPUT, help="Folder of the zoo."),
    ] = Path("zoo"),
    data: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=options.DATA,
            metavar="NAME=SOURCE",
            help="Training images of a data set of the recipe, as --clean takes them, or a table "
            "of texts and labels.",
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=options.DATA,
            metavar="NAME=SOURCE",
            help="Its test images or texts; else some of the training ones are held out.",
        ),
    ] = None,
    only: options.Only = None,
    jobs: options.Jobs = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train the backdoored models of a recipe, and benign ones.

    What is in the folder already and has not changed in the recipe is not trained again, so the
    same command goes on after an interruption. Models whose attack did not take or whose accuracy
    is poor are listed apart.
    """
    flags = options.given(device=device)
    resolved = session.start(flags, file=None, quiet=quiet, verbose=verbose).config
    outputs.require_folder(output)
    train, held_out = pairs("--data", data or ()), pairs("--test", test or ())
    with session.running(resolved) as context:
        index = _built(recipe, output, train, held_out, only or (), jobs, context)
    console.write_document(_table(index))
    if not all(row.made for row in index.apart):
        raise typer.Exit(exits.ExitCode.INCOMPLETE)


def _built(
    recipe: Path,
    output: Path,
    train: Mapping[str, str],
    test: Mapping[str, str],
    only: Sequence[str],
    jobs: int | None,
    context: RunContext,
) -> Index | TextIndex:
    from badexpert.zoo import build_zoo, read_recipe
    from badexpert.zoo.text import build_text_zoo, is_text_recipe, read_text_recipe

    device, progress = context.device, context.progress
    if is_text_recipe(recipe):
        texts = read_text_recipe(recipe).with_data(train, test)
        return build_text_zoo(texts, output, device=device, jobs=jobs, only=only, progress=progress)
    images = read_recipe(recipe).with_data(train, test)
    return build_zoo(images, output, device=device, jobs=jobs, only=only, progress=progress).index


def _table(index: Index | TextIndex) -> str:
    from rich.console import Group
    from rich.table import Column, Table

    from . import text

    table = Table(Column("model", no_wrap=True), "attack", "accuracy", "ASR", "kept")
    for row in (*index.models, *index.apart):
        table.add_row(
            row.name,
            row.attack or "benign",
            _figure(row.clean_accuracy),
            _figure(row.attack_success_rate),
            row.reason or "yes",
        )
    counts = {
        "models": len(index.models),
        "kept apart": len(index.apart),
        "not made yet": len(index.missing),
    }
    return text.to_string(Group(table, text.facts("Zoo", counts)), terminal=True)


def _figure(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
