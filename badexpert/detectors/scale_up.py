"""SCALE-UP: a trigger still decides when all pixels are multiplied."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from badexpert.cleanset import CleanSet
from badexpert.detectors.base import Fitted, PixelDetector
from badexpert.extraction import Views
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext

FACTORS = (3, 5, 7, 9, 11)
"""The paper's scaling set."""

_ROWS = 256


class ScaleUp(PixelDetector):
    """The share of multiplied copies with the answer of the input, standardised within the class.

    This is the paper's data-limited setting: mean and standard deviation of each class come from
    clean samples. There are few distinct scores; where more clean inputs than the false positive
    rate allows have the highest one, nothing is flagged.

    Source: Guo et al., ICLR 2023, arXiv:2302.03251, section 4.
    Departs: a class whose clean samples do not vary, or are missing, takes the standard deviation
        (or both figures) of all classes together.
    """

    name: ClassVar[str] = "scale-up"

    @classmethod
    @torch.inference_mode()
    def learn(cls, suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> Fitted:
        answers, consistency = [], []
        for batch in clean.batches(_ROWS):
            pixels = suspect.pixels(batch.inputs)
            answers.append(suspect.predict(pixels))
            consistency.append(scaled_consistency(suspect, pixels, answers[-1]))
        means, deviations = _by_class(
            torch.cat(consistency), torch.cat(answers), suspect.num_classes
        )
        return Fitted({"means": means, "deviations": deviations})

    def combine(self, views: Views) -> Tensor:
        answers = views.answers
        consistency = scaled_consistency(self.suspect, views.inputs, answers)
        return (consistency - self.fitted("means")[answers]) / self.fitted("deviations")[answers]


def scaled_consistency(suspect: VisionSuspect, pixels: Tensor, answers: Tensor) -> Tensor:
    """The share of the multiplied inputs that are answered as the inputs are, (batch,) fp64.

    Args:
        pixels: (batch, channels, height, width), in [0, 1].
        answers: of the suspect to them, (batch,).
    """
    scaled = (suspect.predict((pixels * factor).clamp(0, 1)) for factor in FACTORS)
    return torch.stack([found == answers for found in scaled]).double().mean(0)


def _by_class(values: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the values of each class, (classes,) fp64 each."""
    member = one_hot(classes, num_classes).double()
    counts = member.sum(0)
    means = torch.where(counts > 0, values @ member / counts, values.mean())
    variances = (((values[:, None] - means) ** 2 * member).sum(0) / counts).nan_to_num()
    overall = values.std(correction=0)
    overall = torch.where(overall > 0, overall, 1.0)
    return means, torch.where(variances > 0, variances.sqrt(), overall)
