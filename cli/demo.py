"""``badexpert demo``: the whole job on built-in data, in about a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options, outputs, session


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("demo"),
    device: options.Device = None,
    seed: options.Seed = None,
    format: options.Formats = None,
    output: options.Output = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Plant two backdoors in small digit classifiers, find them, and show the numbers."""
    flags = options.given(device=device, seed=seed)
    settings = session.start(flags, file=None, quiet=quiet, verbose=verbose).config
    targets = outputs.parse_targets(format or ["text"], output, RENDERERS)
    outputs.require_folder(out)
    from badexpert.demo import run_demo

    with session.running(settings) as context:
        document = run_demo(context, out).to_json()
    outputs.deliver(targets, lambda target: RENDERERS[target.format](document, target))


def _as_json(document: dict[str, Any], target: outputs.Target) -> str:
    return json.dumps(document, indent=2) + "\n"


def _as_text(document: dict[str, Any], target: outputs.Target) -> str:
    from rich.console import Group
    from rich.table import Table

    from . import text

    models = document["models"]
    table = Table("", *(model["name"] for model in models))
    for name in (name for name in models[0] if name != "name"):
        values = ("-" if model[name] is None else text.shown(model[name]) for model in models)
        table.add_row(name.replace("_", " "), *values)
    pictures = text.facts(
        "Pictures", {str(n): path for n, path in enumerate(document["pictures"], 1)}
    )
    return text.to_string(Group(table, pictures), terminal=target.path is None)


RENDERERS = {"text": _as_text, "json": _as_json}
