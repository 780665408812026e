"""Options that several commands share; each stands for a dotted key of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

MODEL = "The suspect"
DATA = "Data"
RUN = "The run"
OUTPUT = "Output and gate"

Suspect = Annotated[
    str | None,
    typer.Argument(
        show_default=False, help="The model: a file, a folder, or hf:ORG/NAME@REVISION."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(rich_help_panel=MODEL, help="The suspect, if it moved since the extraction."),
]
Arch = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        help="timm:NAME, torchvision:NAME, or python:package.module:factory.",
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL, help="Folder of a LoRA or MixLoRA adapter on a language model."
    ),
]
NumClasses = Annotated[
    int | None, typer.Option(rich_help_panel=MODEL, help="Where the file does not tell.")
]
Size = Annotated[
    str | None,
    typer.Option(rich_help_panel=MODEL, metavar="N|HxW", help="Input size in pixels."),
]
Channels = Annotated[
    int | None, typer.Option(rich_help_panel=MODEL, help="1 or 3, where the tensors do not tell.")
]
Mean = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL, metavar="X[,X,X]", help="Of each channel, where white is 1."
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL, metavar="X[,X,X]", help="Of each channel, where white is 1."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=RUN,
        metavar="PATTERN",
        help="Leave out models with other names than such: 'cifar10-*-s0*'.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=RUN,
        help="Processes of one thread each; else one a core, or one a GPU.",
    ),
]
Clean = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=DATA,
        help="Clean labeled samples: a folder, parquet, npz, sklearn:digits, torchvision:NAME; for "
        "language models JSON lines, CSV or parquet of texts.",
    ),
]
CleanRoot = Annotated[
    str | None, typer.Option(rich_help_panel=DATA, help="Folder of torchvision: data.")
]
Limit = Annotated[
    int | None, typer.Option(rich_help_panel=DATA, help="Use at most so many clean samples.")
]
Inputs = Annotated[
    str | None,
    typer.Option(rich_help_panel=DATA, help="Inputs to score; labels are not needed."),
]
DetectInputs = Annotated[
    str | None,
    typer.Argument(show_default=False, help="Inputs to score; labels are not needed."),
]
Fpr = Annotated[
    float | None,
    typer.Option(rich_help_panel=DATA, help="Share of clean inputs that may be flagged."),
]
Device = Annotated[str | None, typer.Option(rich_help_panel=RUN, help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int | None, typer.Option(rich_help_panel=RUN, help="Root of all randomness.")]
Config = Annotated[
    Path | None,
    typer.Option(rich_help_panel=RUN, help="Configuration file, read instead of a project file."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=RUN, help="Only warnings on stderr.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", rich_help_panel=RUN, help="Details on stderr.")
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        rich_help_panel=OUTPUT,
        metavar="NAME[=PATH]",
        help="text, json or sarif; may be given several times, with a file each.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="File, instead of stdout."),
]
RowFormat = Annotated[
    str,
    typer.Option("--format", "-f", rich_help_panel=OUTPUT, help="json (one object a line) or csv."),
]
Folder = Annotated[
    Path,
    typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="Folder to make; must be new."),
]
FailOn = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=OUTPUT,
        help="Least severity that fails the run: none, low, medium, high or critical.",
    ),
]
AllowInconclusive = Annotated[
    bool | None,
    typer.Option(
        "--allow-inconclusive", rich_help_panel=OUTPUT, help="An open verdict is no failure."
    ),
]
ExitZero = Annotated[
    bool | None,
    typer.Option(
        "--exit-zero", rich_help_panel=OUTPUT, help="Only report: findings do not fail the run."
    ),
]


def given(**values: Any) -> dict[str, Any]:
    """Flags that the user gave, by dotted key: ``model__arch="x"`` becomes ``model.arch``."""
    return {key.replace("__", "."): value for key, value in values.items() if value is not None}


def given_model(
    source: str | None,
    arch: str | None,
    num_classes: int | None,
    size: str | None,
    channels: int | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """The flags about the suspect, by dotted key."""
    height, _, width = (size or "").partition("x")
    return given(
        model__source=source,
        model__arch=arch,
        model__num_classes=num_classes,
        model__preprocessing__height=height or None,
        model__preprocessing__width=(width or height) or None,
        model__preprocessing__channels=channels,
        model__preprocessing__mean=mean.split(",") if mean else None,
        model__preprocessing__std=std.split(",") if std else None,
    )
