"""Arrays in an npz file, read item by item out of the archive; pickled objects are refused."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from badexpert.errors import CleanSetError
from badexpert.sources.base import ImageSource, RawImage, SourceFormat, Unreadable, starts_with

IMAGE_ARRAYS = ("images", "x", "data", "arr_0")
LABEL_ARRAYS = ("labels", "y", "target", "targets", "arr_1")

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError)

# Resampling leaves float pixels a rounding error outside the range.
_SLACK = 1e-4


@dataclass(frozen=True)
class Member:
    """One array of the archive, without its data."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def item_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def item_bytes(self) -> int:
        return math.prod(self.item_shape) * self.dtype.itemsize


class NpzSource(ImageSource):
    """(images, height, width), (..., 1 or 3) or (images, 1 or 3, height, width), uint8 or float.

    Float pixels are in [0, 1] or in 0..255; which of the two, the brightest of the first images
    tells. An image outside that range is unreadable, so a wrong guess is never silent.
    """

    def __init__(self, path: Path, name: str, images: Member, labels: Tensor | None) -> None:
        self.name = name
        self.labels = labels
        self._path = path
        self._images = images
        self._channels_first = _channels_first(path, images)
        self._white = 1.0
        if images.dtype.kind == "f":
            self._white = self._find_white()

    def __len__(self) -> int:
        return self._images.shape[0]

    def item_id(self, index: int) -> str:
        return f"{self._path.name}#{index}"

    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, RawImage | Unreadable]]:
        for index, item in self._items(indices):
            yield index, self._to_raw(index, item)

    def _items(self, indices: Iterable[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        size, position = self._images.item_bytes, 0
        with _member(self._path, self._images.file) as file:
            npy_header(file)
            for index in indices:
                if index > position:
                    file.seek((index - position) * size, 1)
                data = file.read(size)
                if len(data) < size:
                    raise EOFError(f"it ends at item {index} of {len(self)}")
                position = index + 1
                item = np.frombuffer(data, self._images.dtype)
                yield index, item.reshape(self._images.item_shape)

    def _to_raw(self, index: int, item: NDArray[Any]) -> RawImage | Unreadable:
        if self._channels_first:
            item = item.transpose(1, 2, 0)
        if item.dtype == np.uint8:
            return item
        pixels = item.astype(np.float32) / np.float32(self._white)
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN fails this
            found = f"{low * self._white:.4g} to {high * self._white:.4g}"
            return Unreadable(self.item_id(index), f"pixels of {found}, not 0 to {self._white:g}")
        return pixels.clip(0, 1)

    def _find_white(self) -> float:
        low = high = 0.0
        for _, item in self._items(range(min(64, len(self)))):
            finite = np.isfinite(item)
            low = min(low, float(item.min(initial=0, where=finite)))
            high = max(high, float(item.max(initial=0, where=finite)))
        if low < -_SLACK or high > 255 * (1 + _SLACK):
            raise CleanSetError(
                f"{self._path}: the first images have pixels of {low:.4g} to {high:.4g}; they look "
                "normalised. Give pixels in 0..1 or 0..255: the model's normalisation comes later"
            )
        return 1.0 if high <= 1 + _SLACK else 255.0


def open_npz(spec: str, root: Path | None) -> ImageSource:
    """An npz file with ``images`` (or x, data, arr_0) and ``labels`` (or y, target, arr_1).

    Raises:
        CleanSetError: the file is damaged, holds pickled objects, or the arrays do not fit.
    """
    path = Path(spec)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy"): name for name in archive.namelist()}
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    image_name = next((names[name] for name in IMAGE_ARRAYS if name in names), None)
    if image_name is None:
        raise CleanSetError(
            f"{path} holds the arrays {', '.join(sorted(names))}; none is named "
            f"{', '.join(IMAGE_ARRAYS)}. Rename the one with the images"
        )
    label_name = next((names[name] for name in LABEL_ARRAYS if name in names), None)
    images = _describe(path, image_name)
    labels = None if label_name is None else _labels(path, _describe(path, label_name), images)
    return NpzSource(path, spec, images, labels)


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header at the start of an npy file: shape, Fortran order, dtype."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return tuple(shape), bool(fortran), dtype


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            yield file
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _describe(path: Path, name: str) -> Member:
    with _member(path, name) as file:
        shape, fortran, dtype = npy_header(file)
        start = file.tell()
    if dtype.hasobject:
        raise CleanSetError(
            f"{path}: the array {name} holds pickled Python objects, which may run code and are "
            "never loaded. Save it as numbers"
        )
    if fortran and len(shape) > 1:
        raise CleanSetError(
            f"{path}: the array {name} is in Fortran order and cannot be read image by image; "
            "save numpy.ascontiguousarray of it"
        )
    member = Member(name, shape, dtype)
    with zipfile.ZipFile(path) as archive:
        held = archive.getinfo(name).file_size - start
    if held != math.prod(shape) * dtype.itemsize:
        raise CleanSetError(
            f"{path}: the array {name} announces {shape} of {dtype} but holds {held} bytes; "
            "the file is damaged. Write it again"
        )
    return member


def _channels_first(path: Path, images: Member) -> bool:
    """Whether channels stand before height and width; checks shape and dtype on the way."""
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise CleanSetError(
            f"{path}: images of {images.dtype}; expected uint8, or floats in 0..1 or 0..255"
        )
    shape = images.item_shape
    last, first = len(shape) == 3 and shape[2] in (1, 3), len(shape) == 3 and shape[0] in (1, 3)
    if 0 in shape or not (len(shape) == 2 or last or first):
        raise CleanSetError(
            f"{path}: images of shape {images.shape}; expected (images, height, width), "
            "with 1 or 3 channels last or after the first axis"
        )
    if math.prod(shape) > 3 * (Image.MAX_IMAGE_PIXELS or math.inf):
        raise CleanSetError(f"{path}: images of shape {shape} are too large; scale them down")
    return first and not last


def _labels(path: Path, member: Member, images: Member) -> Tensor:
    if member.shape != images.shape[:1] or member.dtype.kind not in "iu":
        raise CleanSetError(
            f"{path}: labels of shape {member.shape} and {member.dtype}; "
            f"expected {images.shape[:1]} whole numbers, one for each image"
        )
    with _member(path, member.file) as file:
        npy_header(file)
        values = np.frombuffer(file.read(), member.dtype)
    return torch.from_numpy(values.astype(np.int64))


def _damaged(path: Path, error: Exception) -> CleanSetError:
    return CleanSetError(f"{path} is damaged: {error}. Fetch or write it again")


def _is_npz(spec: str) -> bool:
    path = Path(spec)
    if not path.is_file() or not starts_with(path, b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return True  # to be told that it is damaged


NPZ = SourceFormat(
    accepts=_is_npz, open=open_npz, form="an npz file with the arrays images and labels"
)
