"""TeCo: how unevenly an input's answer resists corruptions of different kinds."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from badexpert.cleanset import CleanSet
from badexpert.detectors.base import Fitted, PixelDetector
from badexpert.detectors.corruptions import CORRUPTIONS, SEVERITIES, Noise
from badexpert.extraction import Views
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext


class TeCo(PixelDetector):
    """The spread, over kinds of corruption, of the severity at which the answer changes.

    Source: Liu et al., CVPR 2023, arXiv:2303.18191, section 4; the standard deviation is that of
        the authors' code.
    Departs: 10 of the paper's 15 kinds; glass blur, snow, frost, fog and elastic transform are left
        out, for their cost or for pictures that they need. Noise and the angle of the motion are
        drawn once, so that a score depends on nothing else. See also ``corruptions``.
    """

    name: ClassVar[str] = "teco"

    @classmethod
    def learn(cls, suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> Fitted:
        plan = suspect.preprocessing
        shape = (plan.channels, plan.height, plan.width)
        noise = Noise.draw(shape, context.generator(cls.name))
        return Fitted(noise.to(suspect.device)._asdict())

    def combine(self, views: Views) -> Tensor:
        noise = Noise(*(self.fitted(name) for name in Noise._fields))
        resisted = [self._severity_of_change(kind, noise, views) for kind in CORRUPTIONS]
        return torch.stack(resisted, 1).double().std(1, correction=0)

    def _severity_of_change(self, kind: str, noise: Noise, views: Views) -> Tensor:
        """The least severity with another answer, (batch,); one beyond the last where none has."""
        corrupt, suspect = CORRUPTIONS[kind], self.suspect
        changed = [
            suspect.predict(corrupt(views.inputs, severity, noise)) != views.answers
            for severity in range(SEVERITIES)
        ]
        changed.append(torch.ones_like(changed[0]))
        return torch.stack(changed).int().argmax(0) + 1
