"""Exit codes, decided once and before the output format is looked at.

Precedence: 2 over 1 over 3 over 0. A usage error ends the run before there is a report, so 2 comes
from an exception, and the others from the report.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from badexpert.config import ReportConfig
    from badexpert.findings import Report


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    FOUND = 1
    USAGE = 2
    INCOMPLETE = 3
    INTERRUPTED = 130


HELP = (
    "Exit codes: 0 complete, nothing reached --fail-on · 1 a finding at or above --fail-on · "
    "2 usage or configuration error · 3 incomplete, inconclusive, or nothing could be audited · "
    "130 interrupted"
)


def of_report(report: Report, policy: ReportConfig) -> ExitCode:
    """The code of a finished run.

    ``exit_zero`` silences findings and an open verdict, never work that is missing.
    """
    from badexpert.findings import Verdict

    if not policy.exit_zero and _reaches_gate(report, policy):
        return ExitCode.FOUND
    tolerated = policy.allow_inconclusive or policy.exit_zero
    if not report.complete or (report.verdict is Verdict.INCONCLUSIVE and not tolerated):
        return ExitCode.INCOMPLETE
    return ExitCode.OK


def _reaches_gate(report: Report, policy: ReportConfig) -> bool:
    gate = policy.gate
    return gate is not None and any(finding.severity >= gate for finding in report.findings)


def of_error(error: Exception) -> ExitCode:
    """The code of a run that ended in an error: never 1, which would read as "backdoored"."""
    from badexpert.errors import ConfigError

    return ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.INCOMPLETE
