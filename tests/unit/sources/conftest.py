"""Small image files, made on the spot."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encoded(value: int = 0, size: tuple[int, int] = (4, 4)) -> bytes:
    """A PNG of one colour, (value, 0, 255 - value)."""
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255 - value)).save(file, "PNG")
    return file.getvalue()


def noise(seed: int, height: int, width: int) -> Image.Image:
    """A picture that does not compress."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(name="png")
def png_fixture() -> Callable[..., bytes]:
    return encoded


@pytest.fixture(name="noise")
def noise_fixture() -> Callable[..., Image.Image]:
    return noise


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Write files: names to bytes, or to a colour value for a PNG."""

    def write(files: dict[str, bytes | int], folder: str = "data") -> Path:
        base = tmp_path / folder
        for name, content in files.items():
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(content) if isinstance(content, int) else content)
        return base

    return write
