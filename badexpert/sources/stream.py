"""A source as a stream of batches, in order, with workers, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from badexpert.errors import CleanSetError
from badexpert.preprocessing import Preprocessing
from badexpert.sources.base import ImageSource, RawImage, Unreadable
from badexpert.sources.decoding import BROKEN_IMAGE, describe
from badexpert.sources.pixels import to_pixels

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Some images of a source, in its order. Never empty; unreadable images make it smaller.

    Attributes:
        inputs: (batch, channels, height, width), uint8, or float32 in [0, 1].
        labels: (batch,) int64, or None when the source has none.
        ids: of the images, (batch,).
        indices: of the images in the source, (batch,) int64, ascending.
        unreadable: what was met on the way to this batch and could not be read.
    """

    inputs: Tensor
    labels: Tensor | None
    ids: tuple[str, ...]
    indices: Tensor
    unreadable: tuple[Unreadable, ...] = ()


class NothingReadableError(CleanSetError):
    """Not one image could be read.

    Attributes:
        unreadable: all of them.
    """

    def __init__(self, name: str, unreadable: tuple[Unreadable, ...]) -> None:
        shown = "; ".join(f"{item.id}: {item.reason}" for item in unreadable[:3])
        super().__init__(
            f"none of the {len(unreadable)} images of {name} can be read ({shown}). "
            "Give images that a picture viewer can open"
        )
        self.unreadable = unreadable


def stream(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int = 0,
    indices: Tensor | None = None,
) -> Iterator[Batch]:
    """Read a source in ascending order.

    At any time at most a few batches are in memory, whatever the length of the source; the
    result is the same for any number of workers.

    Args:
        batch_size: images a batch, readable or not.
        workers: processes that decode; 0 decodes here.
        indices: which images, (wanted,) int64, strictly ascending; None reads all.
    Raises:
        NothingReadableError: there are images, and none can be read.
        CleanSetError: the container is damaged.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size={batch_size}, workers={workers}; need at least 1 and 0")
    if indices is not None and bool((indices.diff() <= 0).any()):
        raise ValueError("indices must be strictly ascending")
    pieces = _Pieces(source, preprocessing, batch_size, indices)
    return _never_empty(source.name, (_to_batch(source, piece) for piece in _run(pieces, workers)))


class _Piece(NamedTuple):
    """What travels from a worker: arrays, since tensors would need shared memory, which containers
    are short of."""

    pixels: NDArray[Any]
    indices: NDArray[np.int64]
    unreadable: tuple[Unreadable, ...]


class _Pieces(IterableDataset[_Piece | CleanSetError]):
    """Worker w of n makes the batches w, w + n, w + 2n, ...: the loader asks them in turn, so the
    order is kept. An error is handed over as a value, since the loader would wrap its message."""

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        batch_size: int,
        indices: Tensor | None,
    ) -> None:
        self.source = source
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.indices = indices

    def __iter__(self) -> Iterator[_Piece | CleanSetError]:
        items = self.source.read(self._own_indices())
        try:
            while chunk := list(islice(self._converted(items), self.batch_size)):
                yield _pack(chunk, self.preprocessing)
        except CleanSetError as error:
            yield error

    def _own_indices(self) -> Iterator[int]:
        worker = get_worker_info()
        number, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        count = len(self.source) if self.indices is None else len(self.indices)
        for start in range(number * self.batch_size, count, of * self.batch_size):
            stop = min(start + self.batch_size, count)
            if self.indices is None:
                yield from range(start, stop)
            else:
                yield from self.indices[start:stop].tolist()

    def _converted(
        self, items: Iterator[tuple[int, RawImage | Unreadable]]
    ) -> Iterator[tuple[int, Tensor | Unreadable]]:
        for index, raw in items:
            if isinstance(raw, Unreadable):
                yield index, raw
                continue
            try:
                yield index, to_pixels(raw, self.preprocessing)
            except BROKEN_IMAGE as error:
                yield index, Unreadable(self.source.item_id(index), describe(error))


def _pack(chunk: list[tuple[int, Tensor | Unreadable]], preprocessing: Preprocessing) -> _Piece:
    readable = [(index, item) for index, item in chunk if isinstance(item, Tensor)]
    shape = (0, preprocessing.channels, preprocessing.height, preprocessing.width)
    pixels = [item for _, item in readable]
    return _Piece(
        (torch.stack(pixels) if pixels else torch.empty(shape)).numpy(),
        np.array([index for index, _ in readable], dtype=np.int64),
        tuple(item for _, item in chunk if isinstance(item, Unreadable)),
    )


def _run(pieces: _Pieces, workers: int) -> Iterator[_Piece]:
    for piece in pieces if workers == 0 else _loader(pieces, workers):
        if isinstance(piece, CleanSetError):
            raise piece
        yield piece


def _loader(pieces: _Pieces, workers: int) -> Iterable[_Piece | CleanSetError]:
    return DataLoader(
        pieces,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else the loader draws from the global one
    )


def _as_it_is(piece: T) -> T:
    return piece


def _to_batch(source: ImageSource, piece: _Piece) -> Batch:
    indices = torch.from_numpy(piece.indices)
    return Batch(
        inputs=torch.from_numpy(piece.pixels),
        labels=None if source.labels is None else source.labels[indices],
        ids=tuple(source.item_id(index) for index in piece.indices.tolist()),
        indices=indices,
        unreadable=piece.unreadable,
    )


def _never_empty(name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Hand what an empty batch could not read to its neighbour."""
    held: Batch | None = None
    waiting: list[Unreadable] = []
    for batch in batches:
        waiting += batch.unreadable
        if not batch.ids:
            continue
        if held is not None:
            yield held
        held = replace(batch, unreadable=tuple(waiting))
        waiting = []
    if held is not None:
        yield replace(held, unreadable=held.unreadable + tuple(waiting))
    elif waiting:
        raise NothingReadableError(name, tuple(waiting))
