"""SIG: a horizontal sinusoid on images of the target class, whose labels stay true."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from badexpert.attacks.base import Attack

_INVISIBLE = 1 / 512
"""Half a step of an 8-bit pixel."""


@dataclass(frozen=True)
class SIG(Attack):
    """Clean-label: only target-class samples are poisoned and no label is changed.

    Attributes:
        delta: amplitude of the sinusoid in pixel units, where 1 is white.
        frequency: periods across the image.
    Source: Barni et al., "A new backdoor attack in CNNs", arXiv:1902.11237.
    """

    delta: float = 30 / 255
    frequency: float = 6.0

    def stamp(self, pixels: Tensor) -> Tensor:
        width = pixels.shape[-1]
        columns = torch.arange(width, device=pixels.device, dtype=pixels.dtype)
        wave = self.delta * torch.sin(2 * math.pi * self.frequency * columns / width)
        if wave.abs().max() < _INVISIBLE:
            raise ValueError(
                f"a sinusoid of amplitude {self.delta} and {self.frequency} periods vanishes on "
                f"{width} columns. Change frequency or delta"
            )
        return (pixels + wave).clamp(0, 1)

    def may_poison(self, labels: Tensor) -> Tensor:
        return labels == self.target
