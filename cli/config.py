"""``badexpert config show``: what holds, and where it was said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from . import console, options, outputs, session

if TYPE_CHECKING:
    from badexpert.settings import Resolved

app = typer.Typer(no_args_is_help=True, help="The configuration.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def show(
    config: options.Config = None, format: options.Formats = None, output: options.Output = None
) -> None:
    """Print every setting with its value and where the value comes from."""
    targets = outputs.parse_targets(format or ["text"], output, RENDERERS)
    resolved = session.start({}, file=config)
    outputs.deliver(targets, lambda target: RENDERERS[target.format](resolved))


def _as_json(resolved: Resolved) -> str:
    from badexpert.settings import to_json

    document = {"configuration": to_json(resolved.config), "origins": dict(resolved.origins)}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _as_text(resolved: Resolved) -> str:
    from badexpert.settings import to_json

    tree = to_json(resolved.config)
    rows = [
        (key, json.dumps(_value(tree, key), ensure_ascii=False), origin)
        for key, origin in resolved.origins.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [
        f"{key:<{widths[0]}} = {value:<{widths[1]}}  # {origin}" for key, value, origin in rows
    ]
    return console.printable("\n".join(lines)) + "\n"


def _value(tree: dict[str, Any], key: str) -> Any:
    value: Any = tree
    for name in key.split("."):
        value = value[name]
    return value


RENDERERS = {"text": _as_text, "json": _as_json}
