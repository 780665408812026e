"""``badexpert moe bench``: the experts of known layers, ours against others."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, outputs, session

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def bench(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SHAPE]...",
            help="olmoe, mixtral, qwen3-30b, deepseek, small or tiny; by default small, and on a "
            "GPU the first four.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            rich_help_panel=options.RUN,
            help="In a batch; may be repeated. By default 512, and on a GPU 4096, 16384 and 32768.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=options.RUN,
            help="float32, bfloat16 or float16; by default float32, and on a GPU bfloat16.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, rich_help_panel=options.RUN, help="Of each way; medians count.")
    ] = 5,
    plot: Annotated[
        Path | None,
        typer.Option(rich_help_panel=options.OUTPUT, help="PNG file to draw.", show_default=False),
    ] = None,
    format: options.Formats = None,
    output: options.Output = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure the fused experts of a Mixture-of-Experts layer.

    Forward, inference and backward, by our own operation with and without audit outputs, by torch,
    by transformers and by Liger-Kernel where they are installed; against what the machine itself
    reaches with one large product.
    """
    targets = outputs.parse_targets(format or ["text"], output, RENDERERS)
    flags = options.given(device=device)
    settings = session.start(flags, file=None, quiet=quiet, verbose=verbose).config
    with session.running(settings) as context:
        results = _measured(shapes, tokens, dtype, rounds, context.device)
    outputs.deliver(targets, lambda target: RENDERERS[target.format](results, target))
    if plot:
        from moe_core.bench.fused_plot import draw

        draw(results, plot)


def _measured(
    shapes: list[str] | None,
    tokens: list[int] | None,
    dtype: str | None,
    rounds: int,
    device: torch.device,
) -> dict[str, Any]:
    import torch

    from badexpert.errors import ConfigError
    from moe_core.bench.fused import SHAPES, run

    large = device.type == "cuda"
    names = shapes or (["olmoe", "mixtral", "qwen3-30b", "deepseek"] if large else ["small"])
    if unknown := [name for name in names if name not in SHAPES]:
        raise ConfigError(f"shape {unknown[0]!r} is unknown; known are {', '.join(SHAPES)}")
    dtypes = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
    dtype = dtype or ("bfloat16" if large else "float32")
    if dtype not in dtypes:
        raise ConfigError(f"dtype {dtype!r} is unknown; known are {', '.join(dtypes)}")
    counts = tokens or ([4096, 16384, 32768] if large else [512])
    return run(names, counts, dtypes[dtype], device, rounds=rounds, told=log.info)


def _as_json(results: dict[str, Any], target: outputs.Target) -> str:
    return json.dumps(results, indent=1) + "\n"


def _as_text(results: dict[str, Any], target: outputs.Target) -> str:
    from rich.console import Group
    from rich.table import Table

    from . import text

    tables = []
    for layer in results["layers"]:
        table = Table("pass", "by", "ms", "TFLOP/s", "of the ceiling", "times ours", "peak MiB")
        table.title = f"{layer['name']}, {layer['rows'][0]['tokens']} tokens, {results['dtype']}"
        for row in layer["rows"]:
            peak = row["peak_bytes"]
            table.add_row(
                row["kind"],
                row["way"],
                f"{row['milliseconds']:.2f}",
                f"{row['tflops']:.3g}",
                f"{row['of_ceiling']:.0%}",
                f"{row['times_ours']:.2f}",
                "" if peak is None else f"{peak / 2**20:.0f}",
            )
        tables.append(table)
    return text.to_string(Group(*tables), terminal=target.path is None)


RENDERERS = {"text": _as_text, "json": _as_json}
