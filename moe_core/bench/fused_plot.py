"""Results of the fused layer as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe_core.bench.fused import KINDS


def draw(results: Mapping[str, Any], path: Path) -> None:
    """TFLOP/s of every way, one row of axes a kind of pass, one column a layer; the line is what
    one large product reaches on the same machine.

    Args:
        path: of the PNG file.
    """
    layers = results["layers"]
    size = (2 + 2.6 * len(layers), 2.6 * len(KINDS))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(KINDS), len(layers), squeeze=False, sharey=True)
    for line, kind in zip(grid, KINDS, strict=True):
        for axes, layer in zip(line, layers, strict=True):
            rows = [row for row in layer["rows"] if row["kind"] == kind]
            _draw_rows(rows, axes)
            axes.axvline(results["ceiling_tflops"], color="black", linewidth=0.8)
            axes.set(title=f"{layer['name']}, {rows[0]['tokens']} tokens: {kind}")
            axes.title.set_fontsize(7)
    figure.supxlabel(f"TFLOP/s in {results['dtype']} on {results['device']}", fontsize=8)
    figure.savefig(path, dpi=120)


def _draw_rows(rows: list[Mapping[str, Any]], axes: Axes) -> None:
    axes.barh([row["way"] for row in rows], [row["tflops"] for row in rows])
    axes.invert_yaxis()
    axes.tick_params(labelsize=6)
