"""The paper's own score: two lines in the plane of expert and auxiliary confidence."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from badexpert.detectors.base import Detector
from badexpert.extraction.comparison import AUXILIARY, SHIFTED, Views


def ensemble_score(expert: Tensor, auxiliary: Tensor, *, slope: float) -> Tensor:
    """Suspicion of each input, from how the two tuned copies see the suspect's answer.

    With x and y the probabilities of the answer under expert and auxiliary and c the slope, the
    paper's score is min(y / (c x), (1 - x) / max(c - y, 1e-8)), low for backdoor inputs.

    Args:
        expert: log-odds of the suspect's answer under the backdoor expert, (batch,).
        auxiliary: the same under the clean-finetuned copy, (batch,).
        slope: of the decision boundary, in (0, 1].
    Returns:
        (batch,) fp64, minus the logarithm of the paper's score: higher = more suspicious.
    Raises:
        ValueError: the shapes differ.
    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 4; the floor is its public code's.
    Departs: log space, so that a saturated softmax keeps its order; sign flipped.

    Kept, since the recipe is the authors' own: where x and y are both nearly 1 (log-odds beyond
    18) the floor decides, and an input that both copies are sure of looks suspicious.
    """
    if expert.shape != auxiliary.shape:
        raise ValueError(f"shapes differ: {tuple(expert.shape)} and {tuple(auxiliary.shape)}")
    expert, auxiliary = expert.double(), auxiliary.double()
    below_first = logsigmoid(auxiliary) - math.log(slope) - logsigmoid(expert)
    room = (slope - torch.sigmoid(auxiliary)).clamp_min(1e-8)
    below_second = logsigmoid(-expert) - room.log()
    return -torch.minimum(below_first, below_second)


class PaperBaDExpert(Detector):
    """``ensemble_score`` with the slope that the bundle's settings name."""

    name: ClassVar[str] = "badexpert-paper"
    parts: ClassVar[frozenset[str]] = frozenset({SHIFTED, AUXILIARY})

    def combine(self, views: Views) -> Tensor:
        slope = self.bundle.record.settings.paper.slope
        expert, auxiliary = views.log_odds[SHIFTED], views.log_odds[AUXILIARY]
        return ensemble_score(expert, auxiliary, slope=slope)
