"""A decoded image of any mode and size to the pixels of a model's input. No normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from badexpert.preprocessing import Preprocessing
from badexpert.sources.base import RawImage, is_float

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# ITU-R BT.601, what Pillow uses for its own conversion to gray.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def to_pixels(raw: RawImage, preprocessing: Preprocessing) -> Tensor:
    """Bring one image to the model's size and channels.

    The shorter side is resized to size / crop_share and the centre is cut out, as torchvision's
    Resize and CenterCrop do; an image of the right size is left as it is. Alpha is dropped, as
    the usual loaders do: a model was trained on the colours under it. 16-bit gray becomes 8-bit.

    Args:
        raw: a PIL image, or (height, width[, 1 or 3]) as uint8 or as floats in [0, 1].
    Returns:
        (channels, height, width), uint8; float32 in [0, 1] for a float array, so that a faint
        trigger is not rounded away.
    Raises:
        ValueError: the mode, the shape or the proportions cannot be turned into pixels.
    """
    if isinstance(raw, np.ndarray):
        if raw.ndim == 2:
            raw = raw[:, :, None]
        if raw.ndim != 3 or raw.shape[2] not in (1, 3):
            raise ValueError(f"array of shape {raw.shape}; expected (height, width[, 1 or 3])")
        convert = _from_floats if is_float(raw) else _from_bytes
        return convert(raw, preprocessing)
    return _from_image(_in_channels(raw, preprocessing.channels), preprocessing)


def _from_bytes(array: NDArray[Any], preprocessing: Preprocessing) -> Tensor:
    if array.dtype != np.uint8:
        raise ValueError(f"array of {array.dtype}; expected uint8 or floats")
    if array.shape == (preprocessing.height, preprocessing.width, preprocessing.channels):
        return _channels_first(array)
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    return _from_image(_in_channels(image, preprocessing.channels), preprocessing)


def _from_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    array = np.asarray(_fit(image, preprocessing))
    return _channels_first(array[:, :, None] if array.ndim == 2 else array)


def _from_floats(array: NDArray[Any], preprocessing: Preprocessing) -> Tensor:
    array = array.astype(np.float32, copy=False)
    if array.shape[2] > preprocessing.channels:
        array = (array @ _LUMA)[:, :, None]
    elif array.shape[2] < preprocessing.channels:
        array = array.repeat(preprocessing.channels, axis=2)
    if array.shape[:2] != (preprocessing.height, preprocessing.width):
        planes = [_fit(Image.fromarray(plane), preprocessing) for plane in array.transpose(2, 0, 1)]
        array = np.stack([np.asarray(plane) for plane in planes], axis=2).clip(0, 1)
    return _channels_first(array)


def _channels_first(array: NDArray[Any]) -> Tensor:
    # A copy: what Pillow lends is read-only, and a slice would keep the whole array alive.
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point image; its range is unknown, store pixels in 0..255")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("P", "PA", "CMYK", "LAB", "HSV", "YCbCr"):
        # By way of RGBA, a palette's transparency costs no warning.
        image = image.convert("RGBA" if image.mode in ("P", "PA") else "RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"gray values of {values.min():g} to {values.max():g}, beyond 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    target = (preprocessing.width, preprocessing.height)
    if image.size == target:
        return image
    width, height = image.size
    across, down = (int(side / preprocessing.crop_share) for side in target)
    if across * height >= down * width:
        down = int(across * height / width)
    else:
        across = int(down * width / height)
    if across * down > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(f"{width}x{height} pixels; too long and thin to scale")
    if image.size != (across, down):
        image = image.resize((across, down), FILTERS[preprocessing.interpolation])
    left, top = round((across - target[0]) / 2), round((down - target[1]) / 2)
    return image.crop((left, top, left + target[0], top + target[1]))
