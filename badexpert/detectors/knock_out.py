"""Inputs whose answer hangs on a few experts: where a backdoor lives in these, its triggers."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Self

import torch
from torch import Tensor

from badexpert.config import ExtractionConfig
from badexpert.detectors.base import Detector
from badexpert.errors import AuditError
from badexpert.extraction import Bundle, Views
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.textset import CleanSamples
from moe_core.view import ExpertId, ExpertView


class KnockOut(Detector):
    """How far the probabilities of the classes move without some experts of the suspect.

    The total variation distance, in [0, 1], by zeroing the experts and by routing around them,
    whichever is less: what moves under one kind of ablation alone may be due to that kind.

    It needs experts that somebody has named, as the expert audit does, so it stands apart from
    ``DETECTORS``: ``KnockOut.of`` makes it.

    Source: none is published.
    """

    name: ClassVar[str] = "knock-out"

    @classmethod
    def of(
        cls,
        suspect: TextSuspect,
        experts: Collection[ExpertId],
        clean: CleanSamples,
        context: RunContext,
    ) -> Self:
        """A detector that takes these experts away, still to be calibrated.

        Args:
            suspect: is not changed.
            clean: samples that the experts were named with.
        Raises:
            AuditError: no expert is named, or the suspect does not have it.
        """
        known = set(ExpertView.of(suspect.module).experts())
        if not experts or not known.issuperset(experts):
            raise AuditError(
                f"experts {sorted(map(tuple, experts))} of {suspect.origin.source} are to be taken "
                "away; name one or more that it has, each as layer and index"
            )
        suspect.to(context.device)
        bundle = Bundle.untuned(suspect, clean, settings=ExtractionConfig(), seed=context.seed)
        bundle.fitted[cls.name] = {"experts": torch.tensor(sorted(experts))}
        return cls(bundle)

    def combine(self, views: Views) -> Tensor:
        network = self.bundle.suspect.network
        view = ExpertView.of(self.bundle.suspect.module)
        experts = [ExpertId(*expert) for expert in self.fitted("experts").tolist()]
        whole = network(views.inputs).double().softmax(1)
        distances = []
        for ablation in (view.zeroed, view.without):
            with ablation(experts):
                moved = network(views.inputs).double().softmax(1) - whole
            distances.append(moved.abs().sum(1) / 2)
        return torch.stack(distances).amin(0)
