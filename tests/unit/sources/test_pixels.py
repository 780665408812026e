from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from badexpert.preprocessing import Preprocessing
from badexpert.sources.pixels import to_pixels


def gray(height, width, **settings):
    return Preprocessing(height, width, 1, mean=(0.0,), std=(1.0,), **settings)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop_share", [1.0, 0.875, 0.95])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 90), (90, 37), (29, 33), (300, 211)])
def test_same_as_torchvision(height, width, crop_share, interpolation, noise):
    image = noise(1, height, width)
    theirs = Compose(
        [Resize(int(32 / crop_share), InterpolationMode(interpolation)), CenterCrop(32)]
    )(image)
    ours = to_pixels(
        image, Preprocessing(32, 32, interpolation=interpolation, crop_share=crop_share)
    )
    assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.asarray(theirs))


def test_right_size_is_left_alone_whatever_the_crop(noise):
    image = noise(2, 12, 20)
    pixels = to_pixels(image, Preprocessing(12, 20, crop_share=0.5))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()


def test_a_thread_of_pixels_is_refused():
    with pytest.raises(ValueError, match="1000000x1 pixels; too long and thin"):
        to_pixels(Image.new("RGB", (1_000_000, 1)), Preprocessing(224, 224))


def with_alpha():
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    image.paste((200, 100, 50, 255), (0, 0, 2, 4))
    return image


def transparent_palette():
    image = Image.new("P", (4, 4))
    image.putpalette([200, 100, 50, 0, 0, 0])
    image.info["transparency"] = b"\x00\xff"
    return image


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.new("RGB", (4, 4), (200, 100, 50)), id="RGB"),
        pytest.param(with_alpha(), id="RGBA"),
        pytest.param(transparent_palette(), id="palette"),
        pytest.param(Image.new("CMYK", (4, 4), (55, 155, 205, 0)), id="CMYK"),
        pytest.param(Image.new("RGB", (4, 4), (200, 100, 50)).convert("YCbCr"), id="YCbCr"),
    ],
)
def test_colour_modes_become_the_same_colour_and_the_same_gray(image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colour = to_pixels(image, Preprocessing(4, 4))
        shade = to_pixels(image, gray(4, 4))
    expected = torch.tensor([200, 100, 50])[:, None, None].expand(3, 4, 4)
    assert (colour.int() - expected).abs().max() <= 1
    assert shade.shape == (1, 4, 4)
    assert (shade.int() - 124).abs().max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_modes_fill_three_channels(mode):
    image = Image.new("L", (4, 4), 255).convert(mode)
    assert to_pixels(image, Preprocessing(4, 4)).unique().tolist() == [255]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_gray_becomes_8_bit(dtype):
    values = np.array([[0, 257], [257 * 128, 65535]], dtype=dtype)
    assert to_pixels(Image.fromarray(values), gray(2, 2)).flatten().tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("values", [[[70_000]], [[-1]]])
def test_wider_integers_are_refused(values):
    with pytest.raises(ValueError, match="beyond 16 bits"):
        to_pixels(Image.fromarray(np.array(values, dtype=np.int32)), gray(1, 1))


def test_floating_point_images_are_refused():
    with pytest.raises(ValueError, match="range is unknown"):
        to_pixels(Image.new("F", (4, 4)), Preprocessing(4, 4))


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (3, 4, 4, 1)])
def test_arrays_of_odd_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        to_pixels(np.zeros(shape, dtype=np.uint8), Preprocessing(4, 4))


def test_float_arrays_keep_faint_differences():
    faint = np.full((4, 4, 3), 0.5, dtype=np.float32)
    faint[0, 0] += 1e-4
    pixels = to_pixels(faint, Preprocessing(4, 4))
    assert pixels.dtype == torch.float32
    assert float(pixels[0, 0, 0] - pixels[0, 1, 1]) == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_float_and_uint8_arrays_are_fitted_alike(interpolation, channels, noise):
    # Of low contrast: Pillow clips bytes between its two passes, floats it does not.
    array = np.asarray(noise(3, 50, 41)) // 4 + 96
    target = Preprocessing(
        20, 24, channels, (0.0,) * channels, (1.0,) * channels, interpolation, 0.9
    )
    whole = to_pixels(array, target).float() / 255
    fine = to_pixels(array.astype(np.float32) / 255, target)
    assert (whole - fine).abs().max() < 2.5 / 255


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
def test_overshoot_of_floats_is_clipped(interpolation):
    edge = np.zeros((8, 8), dtype=np.float32)
    edge[:, 4:] = 1
    pixels = to_pixels(edge, gray(16, 16, interpolation=interpolation))
    assert (float(pixels.min()), float(pixels.max())) == (0, 1)


def test_gray_array_with_and_without_a_channel_axis():
    array = np.arange(16, dtype=np.uint8).reshape(4, 4)
    flat, deep = to_pixels(array, gray(4, 4)), to_pixels(array[:, :, None], gray(4, 4))
    assert torch.equal(flat, deep)
    assert torch.equal(to_pixels(array, Preprocessing(4, 4))[2], flat[0])
