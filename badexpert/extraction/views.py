"""Images in several views: shifted and mirrored, as far as the suspect does not mind."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from badexpert.augmentation import crop_and_flip
from badexpert.extraction.features import Features, compute_features
from badexpert.runtime import RunContext

VIEWS = 6
"""Beside the image itself."""

SHIFT = 0.1
"""Of the shorter side, how far an image is shifted at most."""

MINDED = 0.05
"""Of all images, how many more answers a change may spoil."""

BUDGET = 2 * 2**30
"""Bytes that all views may take."""


def views_of(
    trunk: nn.Module, tail: nn.Module, images: Features, seen: Features, context: RunContext
) -> Features:
    """Trunk outputs of images and of changed copies of them, under the same labels.

    What the suspect does not mind is found out by asking it: a traffic sign must not be mirrored,
    and a digit that fills its image hardly be shifted.

    Args:
        images: pixels, (samples, channels, height, width).
        seen: trunk outputs of the images as they are.
    """
    enough = _accuracy(seen, tail, context) - MINDED
    draws = context.generator("views")

    def changed(crop: int, flip: bool) -> Features:
        pixels = crop_and_flip(images.values, crop=crop, flip=flip, generator=draws)
        return compute_features(trunk, replace(images, values=pixels), context.device)

    mirrored = replace(images, values=images.values.flip(-1))
    through_trunk = compute_features(trunk, mirrored, context.device)
    flip = _accuracy(through_trunk, tail, context) >= enough
    crop = round(SHIFT * min(images.values.shape[-2:]))
    while crop and _accuracy(changed(crop, False), tail, context) < enough:
        crop //= 2
    views = [seen.values]
    if crop or flip:
        room = BUDGET // (seen.values.numel() * seen.values.element_size())
        views += [changed(crop, flip).values for _ in range(min(VIEWS, room))]
    return Features(torch.cat(views), images.labels.repeat(len(views)), views=len(views))


def _accuracy(features: Features, tail: nn.Module, context: RunContext) -> float:
    return features.accuracy_of(features.through(tail, context.device))
