"""What a source of inputs is: it streams in ascending order and never holds the whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

RawImage = Image.Image | NDArray[Any]
"""A loaded PIL image, or (height, width[, 1 or 3]) as uint8 or as float32 in [0, 1]."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Unreadable:
    """An input that could not be read.

    Attributes:
        id: as the source names it.
        reason: why, in a few words.
    """

    id: str
    reason: str


class Source(ABC, Generic[Item]):
    """A fixed sequence of inputs on disk or in memory.

    A source can be pickled, so that workers may read it: it keeps no open file. What it keeps for
    each input on disk is its name and label, never its content.

    Attributes:
        name: the source as the user gave it.
        labels: (inputs,) int64, or None when there are none.
        class_names: name of each label, or None when there are none.
        notes: what a user should know about how the source was understood.
    """

    name: str
    labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Inputs, readable or not."""

    @abstractmethod
    def item_id(self, index: int) -> str:
        """A name that stays the same between runs and machines."""

    @abstractmethod
    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, Item | Unreadable]]:
        """Read some inputs, in the order given, one at a time.

        Args:
            indices: strictly ascending; containers are read forwards, once.
        Raises:
            CleanSetError: the container itself is damaged.
        """


class ImageSource(Source[RawImage]):
    """A source of images."""


class SourceFormat(NamedTuple):
    """One entry of ``SOURCES``.

    Attributes:
        accepts: whether a specification is of this format; looks at content, not at suffixes.
        open: makes the source of a specification that was accepted; the second argument is the
            root folder, which only some formats take.
        form: how a user writes such a specification.
        takes_root: whether a root folder means anything here.
    """

    accepts: Callable[[str], bool]
    open: Callable[[str, Path | None], ImageSource]
    form: str
    takes_root: bool = False


def starts_with(path: Path, magic: bytes) -> bool:
    """Whether a file begins with these bytes."""
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def is_float(raw: RawImage) -> bool:
    """Whether an image is an array of floating-point pixels."""
    return isinstance(raw, np.ndarray) and np.issubdtype(raw.dtype, np.floating)
