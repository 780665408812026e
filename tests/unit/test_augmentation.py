"""Random crops and mirror images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from badexpert.augmentation import crop_and_flip

PIXELS = torch.arange(1, 1 + 64 * 3 * 5 * 7, dtype=torch.float32).view(64, 3, 5, 7)


def augmented(crop: int, flip: bool, seed: int = 0, pixels: Tensor = PIXELS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return crop_and_flip(pixels, crop=crop, flip=flip, generator=generator)


def windows(image: Tensor, crop: int) -> list[Tensor]:
    """All that may be cut out of an image with a black border."""
    padded = pad(image, (crop,) * 4)
    height, width = image.shape[-2:]
    offsets = [(top, left) for top in range(2 * crop + 1) for left in range(2 * crop + 1)]
    return [padded[:, top : top + height, left : left + width] for top, left in offsets]


def test_nothing_asked_for_nothing_done() -> None:
    assert torch.equal(augmented(0, False), PIXELS)


def test_about_half_of_the_images_are_mirrored_and_the_rest_left_alone() -> None:
    result = augmented(0, True)
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(result, PIXELS, strict=True)]
    left = [torch.equal(new, old) for new, old in zip(result, PIXELS, strict=True)]
    assert all(a != b for a, b in zip(mirrored, left, strict=True))
    assert 20 <= sum(mirrored) <= 44


@pytest.mark.parametrize("crop", [1, 4])
def test_every_crop_is_a_window_of_its_own_image(crop: int) -> None:
    result = augmented(crop, False)
    places = []
    for new, old in zip(result, PIXELS, strict=True):
        matches = [i for i, window in enumerate(windows(old, crop)) if torch.equal(window, new)]
        assert len(matches) == 1
        places += matches
    assert len(set(places)) > 5


def test_every_window_comes_up() -> None:
    image = PIXELS[:1].expand(400, -1, -1, -1)
    result = augmented(1, False, pixels=image)
    for window in windows(PIXELS[0], 1):
        assert (result == window).flatten(1).all(1).any()


def test_draws_follow_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = augmented(2, True)
    torch.manual_seed(2)
    assert torch.equal(augmented(2, True), first)
    assert not torch.equal(augmented(2, True, seed=1), first)


def test_the_input_is_not_changed_and_bytes_stay_bytes() -> None:
    pixels = PIXELS.to(torch.uint8)
    untouched = pixels.clone()
    assert augmented(2, True, pixels=pixels).dtype == torch.uint8
    assert torch.equal(pixels, untouched)
