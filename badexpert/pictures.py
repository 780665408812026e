"""Pictures of what a detector sees: the score plane, and the inputs that it flags."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from badexpert.extraction.comparison import AUXILIARY, Views

MAX_SHOWN = 24


def draw_score_plane(
    clean: Views, triggered: Views | None, expert: str, title: str, path: Path
) -> None:
    """Confidence of one expert against that of the auxiliary, one dot an input.

    Args:
        expert: which expert is on the horizontal axis.
        triggered: None for a model without a trigger.
        path: of the PNG file.
    """
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for views, label, color in ((clean, "clean", "tab:blue"), (triggered, "triggered", "tab:red")):
        if views is not None:
            x, y = (torch.sigmoid(views.log_odds[part]).numpy() for part in (expert, AUXILIARY))
            axes.scatter(x, y, s=8, alpha=0.4, label=label, color=color, linewidths=0)
    axes.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel=f"{expert} expert: confidence in the answer",
        ylabel="auxiliary: confidence in the answer",
        title=title,
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def draw_inputs(pixels: Tensor, captions: list[str], title: str, path: Path) -> None:
    """A sheet of images with captions.

    Args:
        pixels: (images, channels, height, width) in [0, 1]; the first two dozen are drawn.
        captions: one an image.
        path: of the PNG file.
    """
    columns, shown = 8, min(len(pixels), MAX_SHOWN)
    rows = max(1, -(-shown // columns))
    figure = Figure(figsize=(columns, 1.3 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, caption in zip(grid.flat, pixels[:shown], captions, strict=False):
        picture = image.permute(1, 2, 0).numpy()
        axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray")
        axes.set_title(caption, fontsize=7)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)
