"""Our comparison: the expert remembers what the suspect answers, and the auxiliary does not."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from badexpert.detectors.base import Detector
from badexpert.extraction import Views

AUXILIARY_WEIGHT = 0.25


class BaDExpert(Detector):
    """Log-odds of the expert for the suspect's answer, less a quarter of the auxiliary's.

    Both are measured in interquartile ranges of held-out clean samples, so no constant depends on
    the architecture. The auxiliary only seconds the expert: on some models it keeps the backdoor
    and vouches for every triggered input.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 4.
    Departs: a weighted difference of log-odds instead of two lines in the plane of probabilities;
        no slope to set, and no saturation.
    """

    name: ClassVar[str] = "badexpert"

    def combine(self, views: Views) -> Tensor:
        record = self.bundle.record
        expert = record.expert_scale.apply(views.expert.double())
        auxiliary = record.auxiliary_scale.apply(views.auxiliary.double())
        return expert - AUXILIARY_WEIGHT * auxiliary
