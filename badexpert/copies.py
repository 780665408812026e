"""Copies of flagged images, for somebody to look at."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from torch import Tensor

from badexpert.errors import ConfigError

_LONGEST = 80


class Copies:
    """A folder that takes images, as the model saw them, as PNG.

    A file's name is the place of the image in its source and what is harmless of its identifier.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"folder {folder} cannot be made: {error.strerror}") from error
        self._folder = folder

    def add(self, index: int, item_id: str, pixels: Tensor) -> None:
        """Keep one image, (1 or 3, height, width), uint8 or in [0, 1].

        Raises:
            ConfigError: the folder cannot be written.
        """
        path = self._folder / safe_name(index, item_id)
        draft = path.with_suffix(".part")
        try:
            _to_image(pixels).save(draft, format="PNG")
            draft.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def safe_name(index: int, item_id: str) -> str:
    """A file name without separators, spaces or leading dots, unique for each index."""
    stem = re.sub(r"\.[A-Za-z]{3,4}$", "", item_id)
    harmless = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[-_LONGEST:]
    return f"{index:07d}-{harmless}.png"


def _to_image(pixels: Tensor) -> Image.Image:
    if pixels.is_floating_point():
        pixels = (pixels * 255).round().byte()
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
