from __future__ import annotations

import pytest

from badexpert.config import FailOn, ReportConfig
from badexpert.errors import AuditError, CleanSetError, ConfigError, ModelLoadError
from badexpert.findings import Finding, Severity, Verdict
from badexpert_cli.exits import of_error, of_report
from tests.reports import full_report


def code(
    *,
    worst: Severity | None = None,
    verdict: Verdict = Verdict.CLEAN,
    complete: bool = True,
    fail_on: FailOn = "medium",
    allow_inconclusive: bool = False,
    exit_zero: bool = False,
) -> int:
    findings = () if worst is None else (Finding("BX201", worst, "message"),)
    report = full_report(findings=findings, verdict=verdict, complete=complete)
    return of_report(report, ReportConfig(fail_on, allow_inconclusive, exit_zero))


@pytest.mark.parametrize(
    ("fail_on", "worst", "expected"),
    [
        ("none", Severity.CRITICAL, 0),
        ("low", Severity.LOW, 1),
        ("medium", Severity.LOW, 0),
        ("medium", Severity.MEDIUM, 1),
        ("high", Severity.MEDIUM, 0),
        ("critical", Severity.HIGH, 0),
        ("critical", Severity.CRITICAL, 1),
    ],
)
def test_the_gate_compares_severities(fail_on: FailOn, worst: Severity, expected: int) -> None:
    assert code(fail_on=fail_on, worst=worst) == expected


def test_a_finding_comes_before_missing_work() -> None:
    assert code(worst=Severity.HIGH, complete=False, verdict=Verdict.INCONCLUSIVE) == 1


def test_missing_work_and_open_verdicts_are_never_success() -> None:
    assert code(complete=False) == 3
    assert code(verdict=Verdict.INCONCLUSIVE) == 3


def test_an_open_verdict_can_be_allowed_and_missing_work_cannot() -> None:
    assert code(verdict=Verdict.INCONCLUSIVE, allow_inconclusive=True) == 0
    assert code(complete=False, allow_inconclusive=True) == 3


def test_exit_zero_silences_findings_but_not_missing_work() -> None:
    assert code(worst=Severity.CRITICAL, verdict=Verdict.INCONCLUSIVE, exit_zero=True) == 0
    assert code(worst=Severity.CRITICAL, complete=False, exit_zero=True) == 3


def test_an_accepted_finding_fails_nothing() -> None:
    report = full_report(findings=(), verdict=Verdict.CLEAN, complete=True)
    assert report.suppressed
    assert of_report(report, ReportConfig(fail_on="low")) == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("x"), 2),
        (ModelLoadError("x"), 3),
        (CleanSetError("x"), 3),
        (AuditError("x"), 3),
        (RuntimeError("x"), 3),
    ],
)
def test_no_error_reads_as_backdoored(error: Exception, expected: int) -> None:
    assert of_error(error) == expected
