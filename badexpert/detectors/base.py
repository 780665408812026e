"""What every input-level detector is: a score, and a threshold calibrated on clean samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from badexpert.cleanset import CleanSet
from badexpert.conformal import Calibration
from badexpert.errors import ConfigError
from badexpert.extraction import Bundle, Views
from badexpert.extraction.comparison import SUSPECT
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext, Step
from badexpert.suspect import Inputs, Suspect
from badexpert.textset import CleanSamples

_ROWS = 256


class Judgement(NamedTuple):
    """What a calibrated detector says about a batch.

    Attributes:
        answers: of the suspect, (batch,) class indices; ``Suspect.spelled`` says what they mean.
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


def probabilities_of(answers: Tensor, logits: Tensor) -> Tensor:
    """Softmax of (batch, classes) logits at the (batch,) answers, (batch,) fp64."""
    return logits.double().softmax(1).gather(1, answers[:, None]).squeeze(1)


class Fitted(NamedTuple):
    """What a detector learned from clean samples.

    Attributes:
        tensors: by a name of the detector's choice; they are kept in the bundle.
        notes: what went otherwise than planned; they are kept in its record.
    """

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


class Detector(ABC):
    """Is this input a trigger? Implements ``InputDetector`` over a bundle.

    Attributes:
        name: key in ``DETECTORS``, and of what a bundle keeps for it.
        parts: the tuned copies that the score is made of; no other is run, and where there are
            none, nothing is tuned.
        bundle: suspect, backdoor experts, auxiliary.
        calibration: None until ``calibrate`` was called.
    """

    name: ClassVar[str]
    parts: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bundle: Bundle, calibration: Calibration | None = None) -> None:
        self.bundle = bundle
        self.calibration = calibration

    @classmethod
    def fit(cls, suspect: Suspect, clean: CleanSamples, context: RunContext) -> Fitted:
        """Learn what the score needs to know of clean samples; nothing, if not overridden.

        Args:
            suspect: is not changed.
            clean: samples that the calibration will not see.
        Raises:
            AuditError: the method does not work on this suspect.
            ConfigError: it is for images, and the suspect reads texts.
            CleanSetError: too few samples.
        """
        return Fitted({})

    @abstractmethod
    def combine(self, views: Views) -> Tensor:
        """Suspicion from the views, (batch,), unitless, higher = more suspicious."""

    def fitted(self, name: str) -> Tensor:
        """A tensor that ``fit`` returned, on the suspect's device.

        Raises:
            ConfigError: the bundle does not have it.
        """
        try:
            return self.bundle.fitted[self.name][name]
        except KeyError as error:
            raise ConfigError(
                f"the bundle lacks {name!r}, which detector {self.name!r} learns from clean "
                f"samples. Extract again with detection.detector = {self.name!r}"
            ) from error

    def score(self, inputs: Inputs) -> Tensor:
        """Suspicion of pixels, (batch, channels, height, width), or of texts.

        Returns:
            (batch,) fp64; not a number where the suspect's own outputs are not finite.
        """
        return self._look(inputs)[1]

    def calibrate(
        self, clean: CleanSamples, *, fpr: float = 0.01, context: RunContext | None = None
    ) -> Self:
        """A detector with a threshold that flags at most ``fpr`` of clean inputs.

        Args:
            clean: samples that neither extraction nor ``fit`` has seen.
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

    def judge(self, inputs: Inputs) -> Judgement:
        """Answer, score and flag of pixels, (batch, channels, height, width), or texts."""
        calibration = self._calibrated()
        views, scores = self._look(inputs)
        return Judgement(
            answers=views.answers.cpu(),
            scores=scores,
            p_values=calibration.p_values(scores),
            flagged=calibration.flags(scores),
            views=views,
        )

    @torch.inference_mode()
    def _look(self, inputs: Inputs) -> tuple[Views, Tensor]:
        views = self.bundle.view(inputs, self.parts)
        known = views.log_odds[SUSPECT].isfinite()
        if not len(known):
            return views, torch.empty(0, dtype=torch.float64)
        scores = torch.where(known, self.combine(views).double(), torch.nan)
        return views, scores.cpu()

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise ConfigError(
                f"detector {self.name!r} has no threshold yet; call calibrate with clean samples"
            )
        return self.calibration


class PixelDetector(Detector):
    """A detector that changes pixels, or looks at what only networks of images have."""

    @classmethod
    def fit(cls, suspect: Suspect, clean: CleanSamples, context: RunContext) -> Fitted:
        """Refuse what is no image, then ``learn``."""
        if not isinstance(suspect, VisionSuspect) or not isinstance(clean, CleanSet):
            raise ConfigError(
                f"detector {cls.name!r} works on images, and the suspect reads texts; choose "
                "badexpert, badexpert-paper or max-softmax"
            )
        return cls.learn(suspect, clean, context)

    @classmethod
    @abstractmethod
    def learn(cls, suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> Fitted:
        """As ``fit``, of a model of images."""

    @property
    def suspect(self) -> VisionSuspect:
        """The model under audit."""
        suspect = self.bundle.suspect
        assert isinstance(suspect, VisionSuspect), "fit refuses all others"
        return suspect
