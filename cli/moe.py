"""``badexpert moe``: train Mixture-of-Experts models from recipes, and what recipes may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, exits, moe_bench, options, outputs, session

if TYPE_CHECKING:
    from badexpert.moe import Entry, RankingRecipe
    from badexpert.runtime import RunContext
    from moe_core.training import Recipe

app = typer.Typer(no_args_is_help=True, help="Small Mixture-of-Experts models.")
app.command(epilog=exits.HELP)(moe_bench.bench)


@app.command(epilog=exits.HELP)
def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The recipe, such as configs/moe-top-k.toml.")
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=options.DATA,
            help="A .txt file to model, or parquet, csv or jsonl with columns text and label to "
            "classify; several times for one a stage.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", rich_help_panel=options.OUTPUT, help="Folder to make.")
    ] = Path("moe-model"),
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=options.RUN, help="Go on in that folder."),
    ] = False,
    device: options.Device = None,
    seed: options.Seed = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a small Mixture-of-Experts language model or classifier.

    The folder holds checkpoints, load and entropy of every expert over time, and the model.
    """
    flags = options.given(device=device, seed=seed)
    settings = session.start(flags, file=None, quiet=quiet, verbose=verbose).config
    from badexpert.moe import read_recipe

    chosen = read_recipe(recipe)
    if resume:
        _require_resumable(chosen, output)
    else:
        outputs.require_new_folder(output)
    with session.running(settings) as context:
        facts = _trained(chosen, data or [], output, context)
    from . import text

    content = text.facts(f"Model of {recipe.name}", facts)
    console.write_document(text.to_string(content, terminal=True).lstrip("\n"))


@app.command("list", epilog=exits.HELP)
def list_(format: options.Formats = None, output: options.Output = None) -> None:
    """List the routers and experts that a recipe may name, with their papers."""
    targets = outputs.parse_targets(format or ["text"], output, RENDERERS)
    from badexpert.moe import catalogue

    entries = catalogue()
    outputs.deliver(targets, lambda target: RENDERERS[target.format](entries, target))


def _trained(
    recipe: Recipe | RankingRecipe, data: list[Path], output: Path, context: RunContext
) -> dict[str, Any]:
    from badexpert.errors import ConfigError
    from badexpert.moe import RankingRecipe, train_language_model, train_ranking

    if isinstance(recipe, RankingRecipe):
        if data:
            raise ConfigError("a ranking recipe draws its own click log; leave --data out")
        return train_ranking(recipe, output, context=context)
    if not data:
        raise ConfigError("the text to train on is missing; give --data")
    return train_language_model(recipe, data, output, context=context)


def _require_resumable(recipe: Recipe | RankingRecipe, output: Path) -> None:
    from badexpert.errors import ConfigError
    from badexpert.moe import RankingRecipe

    if isinstance(recipe, RankingRecipe):
        raise ConfigError("a ranking model is trained in one go; leave --resume out")
    if not output.is_dir():
        raise ConfigError(f"output {output} is no folder, so there is nothing to resume")


def _as_json(entries: list[Entry], target: outputs.Target) -> str:
    return json.dumps([entry._asdict() for entry in entries], indent=2) + "\n"


def _as_text(entries: list[Entry], target: outputs.Target) -> str:
    from rich.console import Group
    from rich.table import Table

    from . import text

    tables = []
    for kind in ("router", "experts"):
        table = Table(kind, "what it does", "source")
        for entry in entries:
            if entry.kind == kind:
                table.add_row(entry.name, entry.summary, entry.source)
        tables.append(table)
    return text.to_string(Group(*tables), terminal=target.path is None)


RENDERERS = {"text": _as_text, "json": _as_json}
