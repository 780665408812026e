"""Our comparison: the backdoor experts still hold what the suspect answers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from badexpert.detectors.base import Detector
from badexpert.extraction.comparison import EXPERTS, Views


class BaDExpert(Detector):
    """The larger of the experts' log-odds for the suspect's answer.

    Each is measured in units of its own upper tail on held-out clean samples, so no constant
    depends on the architecture, and an expert that lost the backdoor does not drown the other.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 4.
    Departs: log-odds instead of probabilities, so that nothing saturates and no slope is to be
        set; two experts; and no auxiliary, which on many models keeps the backdoor and then
        vouches for every triggered input.
    """

    name: ClassVar[str] = "badexpert"
    parts: ClassVar[frozenset[str]] = frozenset(EXPERTS)

    def combine(self, views: Views) -> Tensor:
        scales = self.bundle.record.scales
        experts = [part for part in EXPERTS if part in views.log_odds]
        raised = [scales[part].apply(views.log_odds[part].double()) for part in experts]
        return torch.stack(raised).amax(0)
