"""STRIP: a trigger still decides when another image lies over the input."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from badexpert.cleanset import CleanSet
from badexpert.detectors.base import Fitted, PixelDetector
from badexpert.extraction import Views
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext

OVERLAYS = 100
"""The paper's N."""


class Strip(PixelDetector):
    """The entropy of the answers, averaged over clean images laid over the input: low for triggers.

    Normalised images are added with weight 1 each, and not clipped, as in the authors' code.

    Source: Gao et al., ACSAC 2019, arXiv:1902.06531, section 4.
    Departs: every input meets the same overlays, so that its score depends on nothing else; the
        score is minus the entropy.
    """

    name: ClassVar[str] = "strip"

    @classmethod
    def learn(cls, suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> Fitted:
        pixels, _ = clean.tensors()
        chosen = torch.randperm(len(pixels), generator=context.generator(cls.name))[:OVERLAYS]
        notes: tuple[str, ...] = ()
        if len(chosen) < OVERLAYS:
            notes = (f"strip: only {len(chosen)} clean samples to overlay, not {OVERLAYS}",)
        return Fitted({"overlays": pixels[chosen].to(suspect.device)}, notes)

    def combine(self, views: Views) -> Tensor:
        suspect = self.suspect
        overlays = suspect.pixels(self.fitted("overlays")) - _mean_pixel(suspect)
        entropy = torch.zeros(len(views.inputs), dtype=torch.float64, device=suspect.device)
        for overlay in overlays:
            entropy += entropy_of(suspect.logits(views.inputs + overlay))
        return -entropy / len(overlays)


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy in bits of the softmax of (batch, classes) logits, (batch,) fp64."""
    logs = logits.double().log_softmax(1)
    return -(logs.exp() * logs).sum(1) / math.log(2)


def _mean_pixel(suspect: VisionSuspect) -> Tensor:
    """What normalisation takes off: adding two normalised images takes it off twice."""
    network = suspect.network
    return network.mean.flip(1) if network.reverse_channels else network.mean
