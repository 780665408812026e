"""SARIF 2.1.0, as GitHub code scanning and other viewers take it. It carries no time."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from urllib.parse import quote

from badexpert.findings import AuditState, AuditStatus, Finding, Json, Report, Severity, Suppressed
from badexpert.report.plain import plain
from badexpert.rules import RULES, Rule
from badexpert.version import VERSION

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
FINGERPRINT = "ruleAndPlace/v1"

LEVELS = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
}
# GitHub sorts by this number: over 9.0 is critical, over 7.0 high, over 4.0 medium.
SECURITY_SEVERITY = {
    Severity.CRITICAL: "9.5",
    Severity.HIGH: "8.0",
    Severity.MEDIUM: "5.5",
    Severity.LOW: "2.0",
}
NOTIFICATION_LEVELS = {AuditState.SKIPPED: "note", AuditState.FAILED: "error"}


def render(report: Report) -> str:
    """One run with one artifact, the suspect."""
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(report)]}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _run(report: Report) -> Json:
    suppressed = [item.finding for item in report.suppressed]
    rules = [RULES[key] for key in sorted({f.rule for f in (*report.findings, *suppressed)})]
    return {
        "tool": {
            "driver": {
                "name": "badexpert",
                "version": VERSION,
                "semanticVersion": VERSION,
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "automationDetails": {"id": f"badexpert/{report.command}/"},
        "invocations": [
            {
                "executionSuccessful": report.complete,
                "toolExecutionNotifications": _notifications(report),
            }
        ],
        "artifacts": [_artifact(report)],
        "results": [
            *(_result(finding, report, rules) for finding in report.findings),
            *(_suppressed(item, report, rules) for item in report.suppressed),
        ],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verdict": report.verdict.value,
            "seed": report.seed,
            "suppressedCount": len(report.suppressed),
            "versions": plain(report.versions),
        },
    }


def _rule(rule: Rule) -> Json:
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.title}."},
        "help": {"text": rule.help},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {
            "tags": ["security", *(_tag(identifier) for identifier in rule.taxonomy)],
            "security-severity": SECURITY_SEVERITY[rule.severity],
        },
    }


def _tag(identifier: str) -> str:
    if identifier.startswith("CWE-"):
        return f"external/cwe/{identifier.lower()}"
    return f"external/mitre-atlas/{identifier}"


def _result(finding: Finding, report: Report, rules: list[Rule]) -> Json:
    uri = location_uri(str(report.suspect["path"]))
    location: Json = {
        "physicalLocation": {
            "artifactLocation": {"uri": uri, "index": 0},
            "region": {"startLine": 1},
        }
    }
    if finding.subject is not None:
        location["logicalLocations"] = [{"fullyQualifiedName": plain(finding.subject)}]
    return {
        "ruleId": finding.rule,
        "ruleIndex": rules.index(RULES[finding.rule]),
        "level": LEVELS[finding.severity],
        "message": {"text": plain(finding.message)},
        "locations": [location],
        "partialFingerprints": {FINGERPRINT: _fingerprint(finding, uri)},
        "properties": {
            "security-severity": SECURITY_SEVERITY[finding.severity],
            "score": finding.score,
            "threshold": finding.threshold,
            "p_value": finding.p_value,
            "seed": report.seed,
            "evidence": plain(finding.evidence),
        },
    }


def _suppressed(item: Suppressed, report: Report, rules: list[Rule]) -> Json:
    until = f" (until {item.expires})" if item.expires else ""
    suppression = {"kind": "external", "justification": plain(item.statement + until)}
    return {**_result(item.finding, report, rules), "suppressions": [suppression]}


def _fingerprint(finding: Finding, uri: str) -> str:
    """Of rule and place only, so that a second run with other scores finds its alert again."""
    place = "\0".join((finding.rule, uri, plain(finding.subject or "")))
    return hashlib.sha256(place.encode()).hexdigest()


def _artifact(report: Report) -> Json:
    artifact: Json = {"location": {"uri": location_uri(str(report.suspect["path"]))}}
    if digest := report.suspect.get("sha256"):
        artifact["hashes"] = {"sha-256": digest}
    return artifact


def _notifications(report: Report) -> list[Json]:
    notifications = [
        _notification(_sentence(status), NOTIFICATION_LEVELS[status.state])
        for status in report.audits
        if status.state in NOTIFICATION_LEVELS
    ]
    if report.inputs and report.inputs.unreadable:
        names = ", ".join(report.inputs.unreadable)
        count = len(report.inputs.unreadable)
        notifications.append(_notification(f"{count} inputs could not be read: {names}", "warning"))
    return notifications


def _sentence(status: AuditStatus) -> str:
    return f"{status.audit} {status.state.value}: {status.reason}"


def _notification(text: str, level: str) -> Json:
    return {"message": {"text": plain(text)}, "level": level}


def location_uri(path: str) -> str:
    """The suspect's path as a URI: relative where the path is, percent-encoded."""
    if PurePath(path).is_absolute():
        return PurePath(path).as_uri()
    return quote(PurePath(path).as_posix(), errors="surrogateescape")
