"""Images that already lie in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from badexpert.sources.base import ImageSource, RawImage, Unreadable


class ArraySource(ImageSource):
    """(images, height, width[, channels]), uint8 or float32 in [0, 1]; ids are ``stem#17``."""

    def __init__(
        self,
        name: str,
        stem: str,
        pixels: NDArray[Any],
        labels: Tensor | None,
        *,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.labels = labels
        self.class_names = class_names
        self._stem = stem
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def item_id(self, index: int) -> str:
        return f"{self._stem}#{index}"

    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, RawImage | Unreadable]]:
        for index in indices:
            yield index, self._pixels[index]
