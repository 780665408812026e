"""Blend: a whole picture shines through every poisoned image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from badexpert.attacks.base import Attack


def generated_picture(channels: int, height: int, width: int, seed: int) -> Tensor:
    """A colourful picture made of noise at three scales, (channels, height, width) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, channels, height, width)
    for cells in (3, 6, 12):
        noise = torch.rand(1, channels, cells, cells, generator=generator) - 0.5
        picture += interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
    low, high = picture.amin(), picture.amax()
    return ((picture - low) / (high - low))[0]


@dataclass(frozen=True)
class Blend(Attack):
    """``(1 - alpha) * image + alpha * picture``.

    Attributes:
        alpha: opacity of the picture, in (0, 1].
        picture_seed: chooses the picture.
    Source: Chen et al., "Targeted backdoor attacks", arXiv:1712.05526.
    Departs: the picture is generated from a seed; the original blends a photograph.
    """

    alpha: float = 0.2
    picture_seed: int = 0

    def stamp(self, pixels: Tensor) -> Tensor:
        picture = generated_picture(*pixels.shape[1:], seed=self.picture_seed).to(pixels)
        return (1 - self.alpha) * pixels + self.alpha * picture
