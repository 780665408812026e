"""A model in service, with a guard at the door: answers and flags from one call."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from badexpert.detectors import Detector


class Guarded(NamedTuple):
    """What a guarded model returns.

    Attributes:
        answers: class indices, (batch,).
        flagged: suspected triggers, (batch,) bool; do not act on these answers.
        p_values: probability that a clean input looks at least as suspicious, (batch,).
    """

    answers: Tensor
    flagged: Tensor
    p_values: Tensor


class Guard:
    """Wraps a calibrated detector around the suspect that it was made for."""

    def __init__(self, detector: Detector) -> None:
        """Take a calibrated detector.

        Raises:
            ConfigError: it is not calibrated.
        """
        self.threshold = detector.threshold
        self._detector = detector

    def __call__(self, inputs: Tensor) -> Guarded:
        """Answer pixels, (batch, channels, height, width) uint8 or in [0, 1]."""
        judgement = self._detector.judge(inputs)
        return Guarded(judgement.answers, judgement.flagged, judgement.p_values)
