"""Ignore entries applied to a report: accepted findings move aside, they do not vanish."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from fnmatch import fnmatchcase

from badexpert.config import IgnoreEntry
from badexpert.findings import Finding, Report, Suppressed

log = logging.getLogger(__name__)


def suppress(report: Report, entries: Iterable[IgnoreEntry]) -> Report:
    """Move the findings that an ignore entry accepts to ``report.suppressed``.

    An entry whose last day lies before the report's own date accepts nothing, and is logged.
    """
    today = date.fromisoformat(report.clock.created[:10])
    holding = [entry for entry in entries if _holds(entry, today)]
    kept: list[Finding] = []
    accepted: list[Suppressed] = []
    for finding in report.findings:
        entry = next((entry for entry in holding if _covers(entry, finding, report)), None)
        if entry is None:
            kept.append(finding)
        else:
            expires = entry.expires.isoformat() if entry.expires else None
            accepted.append(Suppressed(finding, entry.statement, expires))
    return replace(report, findings=tuple(kept), suppressed=(*report.suppressed, *accepted))


def _holds(entry: IgnoreEntry, today: date) -> bool:
    if entry.expires is None or today <= entry.expires:
        return True
    log.warning("the ignore entry for %s expired on %s: %s", entry.id, entry.expires, entry.path)
    return False


def _covers(entry: IgnoreEntry, finding: Finding, report: Report) -> bool:
    places = (str(report.suspect.get("path", "")), finding.subject or "")
    return entry.id == finding.rule and any(fnmatchcase(place, entry.path) for place in places)
