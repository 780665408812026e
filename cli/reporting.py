"""A finished report: the exit code is decided first, then the documents are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from . import exits, outputs

if TYPE_CHECKING:
    from badexpert.config import ReportConfig
    from badexpert.findings import Report


def targets_of(policy: ReportConfig, output: Path | None) -> tuple[outputs.Target, ...]:
    """The documents that a configuration asks for.

    Raises:
        ConfigError: see ``outputs.parse_targets``.
    """
    from badexpert.report import FORMATS

    return outputs.parse_targets(policy.formats, output, ("text", *FORMATS))


def finish(report: Report, targets: Sequence[outputs.Target], policy: ReportConfig) -> typer.Exit:
    """Write every document; the exit to raise."""
    code = exits.of_report(report, policy)
    outputs.deliver(targets, lambda target: _render(report, target))
    return typer.Exit(code)


def _render(report: Report, target: outputs.Target) -> str:
    from badexpert.report import FORMATS

    from . import text

    if target.format == "text":
        return text.to_string(text.report_content(report), terminal=target.path is None)
    return FORMATS[target.format](report)
