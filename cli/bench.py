"""``badexpert bench``: detectors side by side on the models of a zoo."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, exits, options, outputs, session
from .pairs import pairs

if TYPE_CHECKING:
    from badexpert.bench.recipe import BenchRecipe
    from badexpert.bench.results import Results

log = logging.getLogger(__name__)

TABLES, PLOT = "tables.md", "plot.png"


def bench(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="Such as configs/bench-smoke.toml.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel=options.OUTPUT,
            help="Folder of results; what is in it is not measured again.",
        ),
    ] = Path("bench"),
    zoo: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=options.DATA, help="Folder of a zoo, instead of the recipe's."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=options.DATA,
            metavar="NAME=SOURCE",
            help="Test images of a data set of the zoo, if they moved; its models must not have "
            "been trained on them.",
        ),
    ] = None,
    only: options.Only = None,
    jobs: options.Jobs = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare detectors: the same models, the same clean images, the same seeds.

    The folder holds a JSON file for each cell of the grid, the tables that are printed, and a
    picture. The same command goes on after an interruption.
    """
    flags = options.given(device=device)
    settings = session.start(flags, file=None, quiet=quiet, verbose=verbose).config
    from badexpert.bench.grid import open_zoo, run_bench

    with session.running(settings) as context:
        plan = _plan(recipe, zoo, data or [])
        outputs.require_folder(output)
        models = open_zoo(plan.zoo, output, context, jobs=jobs)
        results = run_bench(plan, models, output, context, jobs=jobs, only=only or [])
    console.write_document(_keep(results, output))
    if results.failed:
        log.warning("%d cells could not be measured", len(results.failed))
        raise typer.Exit(exits.ExitCode.INCOMPLETE)


def _plan(path: Path, zoo: Path | None, data: list[str]) -> BenchRecipe:
    from badexpert.bench.recipe import read_recipe

    recipe = read_recipe(path)
    recipe = recipe if zoo is None else replace(recipe, zoo=zoo)
    return replace(recipe, data={**recipe.data, **pairs("--data", data)})


def _keep(results: Results, folder: Path) -> str:
    from badexpert.bench.plot import draw
    from badexpert.bench.tables import render

    text = render(results)
    outputs.write_atomically(folder / TABLES, text)
    draw(results, folder / PLOT)
    return text
