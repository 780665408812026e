"""Our comparison: the backdoor experts still hold the answer, an auxiliary gave it up, or the
input is unlike the clean samples of its answer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from badexpert.detectors.base import Detector
from badexpert.extraction.comparison import AUXILIARIES, DISTANCE, EXPERTS, Views

COUNTS = {DISTANCE: 2}
"""How often a part counts, if not once: the distance misses fewer attacks than any copy."""


class BaDExpert(Detector):
    """The sum of how unlike clean inputs the experts, the auxiliaries and the suspect itself see an
    input.

    Each is measured in units of its own tails on held-out clean samples, so no constant depends on
    the architecture, and none counts less than nothing: an expert that lost the backdoor takes
    nothing from another, and an auxiliary that kept it vouches for nothing. Of a copy both tails
    count: in some networks the trigger's features are so strong that tuning throws its inputs far
    below all clean ones.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 4.
    Departs: log-odds instead of probabilities, so that nothing saturates; an auxiliary's doubt is
        measured from the suspect's own; a second expert where there is no batch-norm, and a second
        auxiliary; the distance from clean samples, see ``Gaussian``; a sum instead of two lines
        in the plane, so that there is no slope to set.
    """

    name: ClassVar[str] = "badexpert"
    parts: ClassVar[frozenset[str]] = frozenset({*EXPERTS, *AUXILIARIES, DISTANCE})

    def combine(self, views: Views) -> Tensor:
        found = views.suspicions()
        raised = [
            COUNTS.get(part, 1) * scale.apply(found[part])
            for part, scale in self.bundle.record.scales.items()
            if part in found
        ]
        return torch.stack(raised).sum(0)
