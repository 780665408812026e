"""Split-conformal calibration: a threshold whose false positive rate is a promise, not a hope."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import beta, betabinom
from torch import Tensor

from badexpert.errors import CleanSetError

_SLACK = 1e-9
"""For rates such as 0.29, whose products with whole numbers fall short of whole numbers."""


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out clean samples, and what they allow to be said.

    A new clean input is exchangeable with these samples, so it is flagged with probability of at
    most ``fpr``, averaged over draws of the calibration set.

    Attributes:
        scores: (samples,) fp64, ascending; higher = more suspicious.
        fpr: the promised false positive rate, in (0, 1).
    Source: Vovk et al., "Algorithmic learning in a random world", 2005; Papadopoulos et al., 2002.
    """

    scores: Tensor
    fpr: float

    @classmethod
    def of(cls, scores: Tensor, fpr: float) -> Calibration:
        """Calibrate on scores, (samples,), in any order.

        Raises:
            CleanSetError: there are too few samples for this rate, or a score is not a number.
        """
        if not 0 < fpr < 1:
            raise ValueError(f"fpr must lie in (0, 1); got {fpr}")
        if not bool(torch.isfinite(scores).all()):
            bad = int((~torch.isfinite(scores)).sum())
            raise CleanSetError(
                f"{bad} of {len(scores)} clean samples have no finite score; the suspect's outputs "
                "overflow on them. Check its preprocessing"
            )
        needed = math.ceil((1 - _SLACK) / fpr) - 1
        if len(scores) < needed:
            # A hundredth more than the least rate, so that the three digits suffice.
            instead = f", or use fpr={1.01 / (len(scores) + 1):.3g}" if len(scores) else ""
            raise CleanSetError(
                f"a false positive rate of {fpr:g} needs at least {needed} calibration samples; "
                f"got {len(scores)}. Add clean samples{instead}"
            )
        return cls(scores.double().cpu().sort().values, fpr)

    @property
    def allowed(self) -> int:
        """How many calibration scores may lie above the threshold."""
        return math.floor(self.fpr * (len(self.scores) + 1) + _SLACK) - 1

    @property
    def threshold(self) -> float:
        """Flag what scores strictly above."""
        return float(self.scores[len(self.scores) - 1 - self.allowed])

    def p_values(self, scores: Tensor) -> Tensor:
        """Probability that a clean input scores at least as high, (batch,) fp64 in (0, 1]."""
        below = torch.searchsorted(self.scores, scores.double().cpu(), right=False)
        return (len(self.scores) - below + 1).double() / (len(self.scores) + 1)

    def flags(self, scores: Tensor) -> Tensor:
        """Which inputs are flagged, (batch,) bool on the CPU; a score that is no number is."""
        return ~(scores.double().cpu() <= self.threshold)

    def fpr_bound(self, confidence: float = 0.95) -> float:
        """What the rate stays under, with this confidence over draws of the calibration set."""
        above = self.allowed + 1
        return float(beta.ppf(confidence, above, len(self.scores) + 1 - above))

    def excess_p_value(self, flagged: int, scored: int) -> float:
        """Probability that at least ``flagged`` of ``scored`` clean inputs are flagged.

        Beta-binomial, not binomial: all inputs meet the same threshold, and a calibration set that
        came out too kind is too kind to all of them.
        """
        above = self.allowed + 1
        counts = np.arange(flagged, scored + 1)
        logs = betabinom.logpmf(counts, scored, above, len(self.scores) + 1 - above)
        return min(float(np.exp(logsumexp(logs))), 1.0)
