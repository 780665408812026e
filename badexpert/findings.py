"""What an audit says, as plain data: severities, verdicts, findings, the report. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

Json = Any
"""Whatever ``json.dumps`` takes."""

SCHEMA_VERSION = "1.0.0"


class Severity(IntEnum):
    """Ordered, so that a gate can compare."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class Verdict(StrEnum):
    """The answer about the model itself."""

    CLEAN = "clean"
    BACKDOORED = "backdoored"
    INCONCLUSIVE = "inconclusive"


class AuditState(StrEnum):
    """How one audit ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One thing worth a user's attention.

    Attributes:
        rule: stable identifier; its title and taxonomy stand in ``badexpert.rules``.
        severity: how bad it is if true.
        message: one sentence with the numbers in it.
        subject: fully qualified name inside the model (layer, expert, tensor, class), or an
            input's identifier; None when the whole model is meant.
        score: the statistic behind the finding; higher = more suspicious.
        threshold: what the score was compared with.
        p_value: under the null of a clean input or a clean model, where one is known.
        evidence: anything else that helps to believe or refute it.
    """

    rule: str
    severity: Severity
    message: str
    subject: str | None = None
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    evidence: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("score", "threshold", "p_value"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} of a finding must be finite; got {value}")


@dataclass(frozen=True)
class Suppressed:
    """A finding that its owner has accepted: it fails nothing, and is never hidden.

    Attributes:
        statement: why it is accepted.
        expires: ISO date of the last day on which the acceptance holds; None holds for ever.
    """

    finding: Finding
    statement: str
    expires: str | None = None


@dataclass(frozen=True)
class AuditStatus:
    """Whether an audit ran, and if not, why.

    Attributes:
        reason: why it was skipped or how it failed; empty when done.
        summary: what it saw, one sentence, also when it found nothing.
    """

    audit: str
    state: AuditState
    reason: str = ""
    summary: str = ""
    evidence: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class InputsSummary:
    """What happened to the stream of inputs that was scored."""

    source: str
    scored: int
    flagged: int
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clock:
    """Everything that a clock said; all else in a report repeats exactly under the same seed."""

    created: str
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The whole result of one command, ready for any format.

    Attributes:
        command: ``scan``, ``detect``, ...
        suspect: path as given, sha256, architecture, parameters, classes, preprocessing.
        clean_set: source as given, number of samples, clean accuracy of the suspect.
        configuration: the resolved configuration.
        versions: of the tool, Python and the libraries that compute.
        complete: False when any work was cut short, skipped by failure, or unreadable.
        findings: what was found, most severe first.
        suppressed: what was found and accepted by an ignore entry.
        audits: what was and was not checked.
    """

    command: str
    suspect: Mapping[str, Json]
    clean_set: Mapping[str, Json]
    configuration: Mapping[str, Json]
    versions: Mapping[str, str]
    seed: int
    verdict: Verdict
    complete: bool
    findings: tuple[Finding, ...]
    audits: tuple[AuditStatus, ...]
    clock: Clock
    inputs: InputsSummary | None = None
    suppressed: tuple[Suppressed, ...] = ()
    schema_version: str = SCHEMA_VERSION
