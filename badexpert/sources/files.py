"""Images that are files of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from badexpert.sources.base import ImageSource, RawImage, Unreadable
from badexpert.sources.decoding import decode


class FileSource(ImageSource):
    """A sequence of image files below one folder, or anywhere when their paths are absolute."""

    def __init__(
        self,
        name: str,
        folder: Path,
        paths: Sequence[str],
        *,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.labels = labels
        self.class_names = class_names
        self.notes = notes
        self._folder = folder
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def item_id(self, index: int) -> str:
        return self._paths[index]

    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, RawImage | Unreadable]]:
        for index in indices:
            path = self._paths[index]
            yield index, decode(path, self._folder / path)
