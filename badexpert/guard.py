"""A model in service, with a guard at the door: answers and flags from one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from badexpert.detectors import Detector
from badexpert.suspect import Inputs


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


class Written(NamedTuple):
    """What a guarded language model writes.

    Attributes:
        responses: one a prompt.
        flagged: suspected triggers, (batch,) bool; do not hand these responses on.
        p_values: probability that a clean prompt looks at least as suspicious, (batch,).
    """

    responses: list[str]
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

    def __call__(self, inputs: Inputs) -> Guarded:
        """Answer pixels, (batch, channels, height, width) uint8 or in [0, 1], or texts."""
        judgement = self._detector.judge(inputs)
        return Guarded(judgement.answers, judgement.flagged, judgement.p_values)

    def generate(self, prompts: Sequence[str]) -> Written:
        """Let a language model write, greedily, and say which prompts to distrust.

        Raises:
            ValueError: the suspect is a classifier.
        """
        suspect = self._detector.bundle.suspect
        if suspect.num_classes is not None:
            raise ValueError(f"a classifier of {suspect.num_classes} classes writes nothing")
        judgement = self._detector.judge(prompts)
        responses = suspect.spelled(judgement.views.inputs, judgement.answers)
        return Written(list(map(str, responses)), judgement.flagged, judgement.p_values)
