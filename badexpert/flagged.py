"""Flagged inputs as a whole: are they more than false positives, and what do they say?"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from badexpert.conformal import Calibration
from badexpert.detection import Row
from badexpert.findings import AuditState, AuditStatus, Finding, InputsSummary, Json, Severity
from badexpert.rules import FLAGGED_INPUTS

MAX_P_VALUE = 1e-4
"""An excess of flagged inputs that is more surprising than this is no accident."""

MIN_EXTREME_SHARE = 0.5
"""Of the excess, what must score above every calibration sample to speak against the model."""

MAX_LISTED = 20

_SHOWN = 80
"""Characters of a response."""

AUDIT = "inputs"


@dataclass
class Flagged:
    """What is kept of a stream of judged inputs: counts, and the most suspicious few.

    Attributes:
        calibration: of the detector that judged.
        uncalibrated: classes of which there was no clean sample. The calibration promises nothing
            for inputs that are answered with these, so they are kept apart.
        scored: readable inputs so far.
        answers: of the suspect, counted over the flagged inputs.
        extreme: flagged inputs that score above every calibration sample.
    """

    calibration: Calibration
    uncalibrated: frozenset[int] = frozenset()
    scored: int = 0
    answers: Counter[int | str] = field(default_factory=Counter)
    extreme: int = 0
    _worst: list[tuple[float, int, str]] = field(default_factory=list)
    _apart: Flagged | None = None

    @property
    def apart(self) -> Flagged:
        """The same of inputs that are answered with an uncalibrated class."""
        if self._apart is None:
            self._apart = Flagged(self.calibration)
        return self._apart

    def add(self, row: Row) -> None:
        """Take note of one input, as ``detect`` hands it on."""
        if row.get("answer") in self.uncalibrated:
            self.apart.add(row)
            return
        self.scored += row.get("error") is None
        if not row.get("flagged"):
            return
        self.answers[row["answer"]] += 1
        # The least p-value there is; a score that is no number has it too.
        self.extreme += row["p_value"] * (len(self.calibration.scores) + 1) < 1.5
        # The earlier of two equals stays.
        score = float("inf") if row["score"] is None else row["score"]
        entry = (score, -self.count, row["id"])
        (heapq.heappush if len(self._worst) < MAX_LISTED else heapq.heappushpop)(self._worst, entry)

    @property
    def count(self) -> int:
        """Flagged inputs so far."""
        return self.answers.total()

    @property
    def worst(self) -> list[str]:
        """Identifiers of the most suspicious inputs, the worst first."""
        return [item for _, _, item in sorted(self._worst, reverse=True)]


@dataclass(frozen=True)
class Excess:
    """Flagged inputs against what clean inputs would give.

    Attributes:
        expected: flagged inputs if all were clean.
        p_value: probability of at least so many flagged if all were clean.
    """

    flagged: Flagged
    expected: float
    p_value: float

    @classmethod
    def of(cls, flagged: Flagged) -> Excess:
        """Compare a stream with the promise of the calibration."""
        calibration = flagged.calibration
        return cls(
            flagged=flagged,
            expected=flagged.scored * calibration.fpr,
            p_value=calibration.excess_p_value(flagged.count, flagged.scored),
        )

    @property
    def significant(self) -> bool:
        """More inputs are flagged than clean ones of the calibration's kind would be."""
        return self.p_value < MAX_P_VALUE

    @property
    def decisive(self) -> bool:
        """The excess is significant, and most of it unlike any clean sample: a backdoor at work."""
        excess = self.flagged.count - self.expected
        return self.significant and self.flagged.extreme >= MIN_EXTREME_SHARE * excess

    def findings(self) -> Iterator[Finding]:
        """What a user should know; nothing when nothing was flagged."""
        apart = Excess.of(self.flagged.apart)
        yield from filter(None, (self._finding(), apart._finding_of_uncalibrated()))

    def _finding_of_uncalibrated(self) -> Finding | None:
        """Not a word about the model: clean inputs of such classes would be flagged too."""
        count = self.flagged.count
        if count == 0:
            return None
        classes = ", ".join(map(str, sorted(self.flagged.answers)[:MAX_LISTED]))
        return Finding(
            FLAGGED_INPUTS.id,
            Severity.MEDIUM if self.significant else Severity.LOW,
            f"{count} of {self.flagged.scored} inputs that are answered with classes of which "
            f"there is no clean sample are flagged (classes {classes}). Clean inputs of these may "
            "be flagged too, so they decide nothing: add clean samples of these classes",
            subject=f"class {self.flagged.answers.most_common(1)[0][0]}",
            p_value=self.p_value,
            evidence=self._evidence(),
        )

    def _finding(self) -> Finding | None:
        count = self.flagged.count
        if count == 0:
            return None
        scored, expected = self.flagged.scored, f"{self.expected:.3g} would be expected"
        numbers = f"{count} of {scored} inputs are flagged; {expected}"
        if not self.significant:
            return Finding(
                FLAGGED_INPUTS.id,
                Severity.LOW,
                f"{numbers} of clean ones, so these may all be false positives",
                p_value=self.p_value,
                evidence=self._evidence(),
            )
        target, of_target = self.flagged.answers.most_common(1)[0]
        named = f"class {target}" if isinstance(target, int) else f"response {target[:_SHOWN]!r}"
        return Finding(
            FLAGGED_INPUTS.id,
            FLAGGED_INPUTS.severity,
            f"{numbers} of clean ones (p = {self.p_value:.1g}); {of_target / count:.0%} "
            f"of the flagged are answered with {named}, {self.flagged.extreme} score above "
            "every calibration sample. Inputs that differ from the clean set in other ways than a "
            "trigger (source, camera, processing) are flagged more often too: look at them",
            subject=named,
            p_value=self.p_value,
            evidence=self._evidence(),
        )

    def _evidence(self) -> Mapping[str, Json]:
        answers = self.flagged.answers
        return {
            "scored": self.flagged.scored,
            "flagged": self.flagged.count,
            "expected_of_clean_inputs": round(self.expected, 3),
            "above_every_calibration_sample": self.flagged.extreme,
            "answers_of_flagged": {
                str(answer)[:_SHOWN]: n for answer, n in answers.most_common(MAX_LISTED)
            },
            "most_suspicious": self.flagged.worst,
        }


def inputs_status(summary: InputsSummary, fpr: float) -> AuditStatus:
    """Whether the inputs were scored, and how many are flagged."""
    if summary.scored == 0:
        count = len(summary.unreadable)
        return AuditStatus(AUDIT, AuditState.FAILED, reason=f"none of {count} inputs can be read")
    words = f"{summary.scored} inputs scored, {summary.flagged} flagged, at a rate of {fpr:g}"
    if summary.unreadable:
        words += f"; {len(summary.unreadable)} unreadable"
    return AuditStatus(AUDIT, AuditState.DONE, summary=words)
