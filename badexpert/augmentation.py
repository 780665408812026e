"""Random crops and mirror images, one draw an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop_and_flip(pixels: Tensor, *, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Augment a batch of images.

    Args:
        pixels: (batch, channels, height, width).
        crop: pixels of black padding, out of which a window of the old size is cut; 0 cuts none.
        flip: mirror each image with probability one half.
        generator: on the CPU.
    Returns:
        A batch of the same shape.
    """
    count, _, height, width = pixels.shape
    if flip:
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(pixels.device)
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    if crop:
        top, left = torch.randint(0, 2 * crop + 1, (2, count), generator=generator)
        rows = (top[:, None] + torch.arange(height)).to(pixels.device)
        columns = (left[:, None] + torch.arange(width)).to(pixels.device)
        images = torch.arange(count, device=pixels.device)
        padded = pad(pixels, (crop,) * 4).permute(0, 2, 3, 1)
        pixels = padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]
        pixels = pixels.permute(0, 3, 1, 2)
    return pixels
