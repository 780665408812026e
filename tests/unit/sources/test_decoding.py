from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from badexpert.sources.base import Unreadable
from badexpert.sources.decoding import decode


def saved(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_usual_formats_are_decoded(file_format):
    image = decode("a", saved(Image.new("RGB", (6, 4), (200, 30, 30)), file_format))
    assert image.size == (6, 4)
    assert np.allclose(image.convert("RGB").getpixel((3, 2)), (200, 30, 30), atol=6)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(file_format):
    lying = Image.new("RGB", (16, 8), "black")
    lying.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    upright = decode("a", saved(lying, file_format, exif=exif))
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2))[0] > 200
    assert upright.getpixel((4, 13))[0] < 50


def corrupt(kind, data):
    return {
        "empty": b"",
        "text": b"hello, this is no image at all",
        "cut in half": data[: len(data) // 2],
        "header only": data[:20],
    }[kind]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kind", ["empty", "text", "cut in half", "header only"])
def test_broken_images_are_named_not_raised(file_format, kind, noise):
    data = corrupt(kind, saved(noise(0, 40, 40), file_format))
    result = decode("folder/a.png", data)
    assert isinstance(result, Unreadable)
    assert result.id == "folder/a.png"
    assert result.reason
    assert " at 0x" not in result.reason


def test_a_checksum_that_fails_makes_an_image_unreadable(noise):
    data = bytearray(saved(noise(0, 40, 40), "PNG"))
    data[200:400] = bytes(200)
    assert isinstance(decode("a.png", bytes(data)), Unreadable)


def test_missing_file_says_so_without_its_path(tmp_path):
    assert decode("a.png", tmp_path / "a.png") == Unreadable("a.png", "no such file or directory")


def test_postscript_is_refused():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    assert decode("a.png", eps) == Unreadable("a.png", "not an image of a known format")


def test_decompression_bomb_is_unreadable(monkeypatch):
    data = saved(Image.new("L", (400, 400)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        result = decode("bomb.png", data)
    assert isinstance(result, Unreadable)
    assert "bomb" in result.reason
