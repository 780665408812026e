"""BadNet: a small checkerboard patch in the lower right corner."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from badexpert.attacks.base import Attack


@dataclass(frozen=True)
class BadNet(Attack):
    """Black-and-white checkerboard patch, opaque.

    Attributes:
        size: side of the patch in pixels; None takes a tenth of the image, at least 2.
        cell: side of a square of the checkerboard in pixels. Networks that halve the image at
            once hardly see squares of a single pixel.
    Source: Gu et al., "BadNets", arXiv:1708.06733.
    """

    size: int | None = None
    cell: int = 1

    def stamp(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        side = self.size if self.size is not None else max(2, round(min(height, width) / 10))
        if not 1 <= side <= min(height, width):
            raise ValueError(f"a patch of size {side} does not fit an image of {height}x{width}")
        cells = torch.arange(side, device=pixels.device) // self.cell
        board = ((cells[:, None] + cells[None, :]) % 2 == 0).to(pixels.dtype)
        stamped = pixels.clone()
        stamped[..., height - side :, width - side :] = board
        return stamped
