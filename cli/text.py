"""A report for people. Names from the audited files are shown, never obeyed."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from badexpert.findings import AuditState, Finding, Report, Severity, Suppressed, Verdict
from badexpert.rules import RULES

from . import expert_map
from .console import printable

EXPERTS = "experts"
"""The check whose evidence is a map."""

FILE_WIDTH = 100

VERDICT_STYLES = {
    Verdict.CLEAN: "bold green",
    Verdict.BACKDOORED: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}
VERDICT_WORDS = {
    Verdict.CLEAN: "",
    Verdict.BACKDOORED: "The evidence stands under Findings.",
    Verdict.INCONCLUSIVE: "Nothing that was checked decides whether the model hides a backdoor.",
}
SEVERITY_STYLES = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
}
STATE_STYLES = {AuditState.DONE: "green", AuditState.SKIPPED: "yellow", AuditState.FAILED: "red"}


def to_string(content: RenderableType, *, terminal: bool) -> str:
    """Render for stdout as it is, or plain for a file."""
    watched = terminal and sys.stdout.isatty()
    console = Console(
        file=io.StringIO(),
        force_terminal=watched,
        width=None if watched else FILE_WIDTH,
        highlight=False,
    )
    with console.capture() as capture:
        console.print(content)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def report_content(report: Report) -> RenderableType:
    """Verdict, facts, findings with their evidence, and what was and was not checked."""
    return Group(*_sections(report))


def _sections(report: Report) -> Iterator[RenderableType]:
    yield _verdict(report)
    yield facts("Suspect", report.suspect)
    if report.clean_set:
        yield facts("Clean set", report.clean_set)
    if report.inputs:
        yield facts("Inputs", _inputs(report))
    yield from _findings(report.findings)
    if report.audits:
        yield _checks(report)
    for status in report.audits:
        if status.audit == EXPERTS and status.evidence:
            yield expert_map.content(status.evidence)
    if report.suppressed:
        yield _accepted(report.suppressed)


def _verdict(report: Report) -> Text:
    text = Text("Verdict: ").append(report.verdict.value, VERDICT_STYLES[report.verdict])
    if not report.complete:
        text.append("  (incomplete: see what was not checked)", "yellow")
    if words := VERDICT_WORDS[report.verdict]:
        text.append(f"\n{words}")
    return text


def facts(title: str, values: Mapping[str, Any]) -> RenderableType:
    """A titled list of names and values; empty values are left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in values.items():
        if value not in (None, "", (), [], {}):
            table.add_row(Text(f"  {name.replace('_', ' ')}"), Text(printable(shown(value))))
    return Group(Text(f"\n{title}", "bold"), table)


def shown(value: Any) -> str:
    """One value in a line."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case Mapping():
            return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(shown(item) for item in value)
    return str(value)


def _inputs(report: Report) -> dict[str, Any]:
    inputs = report.inputs
    if inputs is None:
        return {}
    return {
        "source": inputs.source,
        "scored": inputs.scored,
        "flagged": inputs.flagged,
        "unreadable": list(inputs.unreadable),
    }


def _findings(findings: Iterable[Finding]) -> Iterator[RenderableType]:
    yield Text("\nFindings", "bold")
    empty = True
    for finding in findings:
        empty = False
        head = Text("  ").append(finding.severity.name.lower(), SEVERITY_STYLES[finding.severity])
        yield head.append(f"  {finding.rule}  {RULES[finding.rule].title}")
        yield _indented(finding.message)
        yield from (_indented(line, "dim") for line in _numbers(finding))
    if empty:
        yield Text("  none")


def _indented(words: str, style: str = "") -> Padding:
    return Padding(Text(printable(words), style), (0, 0, 0, 4))


def _numbers(finding: Finding) -> Iterator[str]:
    numbers = {
        "in": finding.subject,
        "score": finding.score,
        "threshold": finding.threshold,
        "p": finding.p_value,
    }
    known = {name: value for name, value in numbers.items() if value is not None}
    if known:
        yield shown(known)
    if finding.evidence:
        yield shown(finding.evidence)


def _checks(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for status in report.audits:
        words = Text(printable("; ".join(filter(None, (status.summary, status.reason)))))
        state = Text(f"  {status.state.value}", STATE_STYLES[status.state])
        table.add_row(state, Text(printable(status.audit)), words)
    return Group(Text("\nChecks", "bold"), table)


def _accepted(items: tuple[Suppressed, ...]) -> RenderableType:
    lines = [Text(f"\nSuppressed: {len(items)}", "bold")]
    for item in items:
        until = f", until {item.expires}" if item.expires else ""
        words = f"  {item.finding.rule}  {item.finding.message} ({item.statement}{until})"
        lines.append(Text(printable(words)))
    return Group(*lines)
