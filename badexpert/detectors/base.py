"""What every input-level detector is: a score, and a threshold calibrated on clean samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from badexpert.cleanset import CleanSet
from badexpert.conformal import Calibration
from badexpert.errors import ConfigError
from badexpert.extraction import Bundle, Views
from badexpert.runtime import RunContext, Step

_ROWS = 256


class Judgement(NamedTuple):
    """What a calibrated detector says about a batch.

    Attributes:
        answers: of the suspect, (batch,) class indices.
        scores: (batch,) fp64, higher = more suspicious.
        p_values: probability that a clean input scores at least as high, (batch,).
        flagged: (batch,) bool.
        views: what the score was made of.
    """

    answers: Tensor
    scores: Tensor
    p_values: Tensor
    flagged: Tensor
    views: Views


class Detector(ABC):
    """Is this input a trigger? Implements ``InputDetector`` over a bundle.

    Attributes:
        name: key in ``DETECTORS``, and of its calibration in a bundle.
        parts: the tuned copies that the score is made of; no other is run.
        bundle: suspect, backdoor experts, auxiliary.
        calibration: None until ``calibrate`` was called.
    """

    name: ClassVar[str]
    parts: ClassVar[frozenset[str]]

    def __init__(self, bundle: Bundle, calibration: Calibration | None = None) -> None:
        self.bundle = bundle
        self.calibration = calibration

    @abstractmethod
    def combine(self, views: Views) -> Tensor:
        """Suspicion from the views, (batch,), unitless, higher = more suspicious."""

    def score(self, inputs: Tensor) -> Tensor:
        """Suspicion of pixels, (batch, channels, height, width); returns (batch,) fp64."""
        return self.combine(self.bundle.view(inputs, self.parts)).double().cpu()

    def calibrate(
        self, clean: CleanSet, *, fpr: float = 0.01, context: RunContext | None = None
    ) -> Self:
        """A detector with a threshold that flags at most ``fpr`` of clean inputs.

        Args:
            clean: samples that extraction has not seen.
        Raises:
            CleanSetError: too few samples for this rate.
        """
        context = context if context is not None else RunContext()
        scores: list[Tensor] = []
        for batch in clean.batches(_ROWS):
            scores.append(self.score(batch.inputs))
            context.progress(Step("calibration", sum(map(len, scores)), len(clean)))
        return type(self)(self.bundle, Calibration.of(torch.cat(scores), fpr))

    @property
    def threshold(self) -> float:
        """Flag what scores strictly above."""
        return self._calibrated().threshold

    def judge(self, inputs: Tensor) -> Judgement:
        """Answer, score and flag of pixels, (batch, channels, height, width), in one pass."""
        calibration = self._calibrated()
        views = self.bundle.view(inputs, self.parts)
        scores = self.combine(views).double().cpu()
        return Judgement(
            answers=views.answers.cpu(),
            scores=scores,
            p_values=calibration.p_values(scores),
            flagged=calibration.flags(scores),
            views=views,
        )

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise ConfigError(
                f"detector {self.name!r} has no threshold yet; call calibrate with clean samples"
            )
        return self.calibration
