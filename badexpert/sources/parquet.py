"""Parquet in the layout of Hugging Face data sets: one file, or a folder of shards."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from badexpert.errors import CleanSetError
from badexpert.sources.base import ImageSource, RawImage, SourceFormat, Unreadable, starts_with
from badexpert.sources.classes import number_labels
from badexpert.sources.decoding import decode

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")

# Rows and bytes in flight; small, because a row may hold a photograph of several megabytes.
_ROWS = 32
_BUFFER = 1 << 20


class Shard(NamedTuple):
    """One parquet file.

    Attributes:
        id: its path relative to what the user gave.
        column: the leaf column that holds the bytes of the images.
        group_ends: rows up to and including each row group.
    """

    path: Path
    id: str
    column: str
    group_ends: tuple[int, ...]


class ParquetSource(ImageSource):
    """Rows of encoded images; reads one small batch of rows of one row group at a time."""

    def __init__(
        self,
        name: str,
        shards: tuple[Shard, ...],
        labels: Tensor | None,
        class_names: tuple[str, ...] | None,
    ) -> None:
        self.name = name
        self.labels = labels
        self.class_names = class_names
        self._shards = shards
        self._ends = list(accumulate(shard.group_ends[-1] for shard in shards))

    def __len__(self) -> int:
        return self._ends[-1]

    def item_id(self, index: int) -> str:
        shard, row = self._locate(index)
        return f"{self._shards[shard].id}#{row}"

    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, RawImage | Unreadable]]:
        for number, wanted in groupby(indices, key=lambda index: self._locate(index)[0]):
            shard = self._shards[number]
            offset = self._ends[number] - shard.group_ends[-1]
            for row, data in _read_shard(shard, (index - offset for index in wanted)):
                item = f"{shard.id}#{row}"
                if data:
                    yield offset + row, decode(item, data)
                else:
                    yield offset + row, Unreadable(item, "the row holds no image bytes")

    def _locate(self, index: int) -> tuple[int, int]:
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard] - self._shards[shard].group_ends[-1])


def open_parquet(spec: str, root: Path | None) -> ImageSource:
    """A parquet file or a folder of them, in the order of their names.

    The image column is ``image`` or ``img``, as bytes or as a struct of ``bytes`` and ``path``;
    labels are in ``label``, ``labels`` or ``fine_label``, as numbers or as names.

    Raises:
        CleanSetError: a file is damaged, holds no images, or lacks the labels that others have.
    """
    base = Path(spec)
    paths = _shard_paths(base)
    shards, labels, class_names = [], [], None
    for path in paths:
        item = path.relative_to(base).as_posix() if base.is_dir() else path.name
        try:
            with pq.ParquetFile(path) as file:
                shards.append(_shard(path, item, file))
                labels.append(_label_column(path, file))
                class_names = class_names or _class_names(path, file)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
    if shards and not any(shard.group_ends[-1] for shard in shards):
        raise CleanSetError(f"{spec} has 0 rows; give parquet files with images in them")
    numbers, names = _join_labels(spec, labels)
    return ParquetSource(spec, tuple(shards), numbers, names or class_names)


def _shard_paths(base: Path) -> list[Path]:
    if not base.is_dir():
        return [base]
    # Hugging Face keeps shards in the data set's folder, in data/, or in one folder a subset.
    return sorted([*base.glob("*.parquet"), *base.glob("[!.]*/*.parquet")])


def _shard(path: Path, item: str, file: Any) -> Shard:
    metadata = file.metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    column = _image_column(path, file.schema_arrow)
    return Shard(path, item, column, tuple(accumulate(rows)) or (0,))


def _image_column(path: Path, schema: Any) -> str:
    for name in IMAGE_COLUMNS:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
    raise CleanSetError(
        f"{path} has no column of images; got {', '.join(schema.names)}. "
        "Expected image or img, as bytes or as a struct with bytes"
    )


def _label_column(path: Path, file: Any) -> list[Any] | np.ndarray[Any, Any] | None:
    name = next((name for name in LABEL_COLUMNS if name in file.schema_arrow.names), None)
    if name is None:
        return None
    column = file.read(columns=[name], use_threads=False).column(0)
    if column.null_count:
        raise CleanSetError(
            f"{path} has {column.null_count} empty cells in the column {name}; "
            "label them, or remove these rows"
        )
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(), dtype=np.int64)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return list(column.to_pylist())
    raise CleanSetError(
        f"{path} has a column {name} of type {column.type}; expected class numbers or names"
    )


def _join_labels(
    spec: str, columns: list[list[Any] | np.ndarray[Any, Any] | None]
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    present = [column for column in columns if column is not None]
    if not present:
        return None, None
    if len(present) < len(columns):
        raise CleanSetError(
            f"{spec}: {len(present)} of {len(columns)} files have labels; give only those"
        )
    if all(isinstance(column, np.ndarray) for column in present):
        return torch.from_numpy(np.concatenate(present)), None
    return number_labels([value for column in present for value in column])


def _class_names(path: Path, file: Any) -> tuple[str, ...] | None:
    """Names of the classes, from what Hugging Face's ``datasets`` writes beside the schema."""
    written = (file.schema_arrow.metadata or {}).get(b"huggingface")
    if written is None:
        return None
    try:
        features = json.loads(written)["info"]["features"]
        kinds = [features[column] for column in LABEL_COLUMNS if column in features]
        return next((tuple(map(str, kind["names"])) for kind in kinds if "names" in kind), None)
    except (ValueError, KeyError, TypeError) as error:
        raise CleanSetError(
            f"{path} describes its columns in a way that cannot be understood: {error!r}. "
            "Write it again, without the huggingface metadata"
        ) from error


def _read_shard(shard: Shard, rows: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
    """The bytes at some rows, ascending; row groups without any of them are not read."""
    try:
        with pq.ParquetFile(shard.path, buffer_size=_BUFFER, pre_buffer=False) as file:
            for group, wanted in groupby(rows, key=lambda row: bisect_right(shard.group_ends, row)):
                start = shard.group_ends[group - 1] if group else 0
                batches = file.iter_batches(
                    _ROWS, row_groups=[group], columns=[shard.column], use_threads=False
                )
                yield from _pick(batches, start, wanted)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(shard.path, error) from error


def _pick(
    batches: Iterator[Any], start: int, wanted: Iterator[int]
) -> Iterator[tuple[int, bytes | None]]:
    row = next(wanted, None)
    for batch in batches:
        cells = batch.column(0)
        cells = cells.field(0) if pa.types.is_struct(cells.type) else cells
        while row is not None and row < start + len(cells):
            yield row, cells[row - start].as_py()
            row = next(wanted, None)
        if row is None:
            return
        start += len(cells)


def _damaged(path: Path, error: Exception) -> CleanSetError:
    return CleanSetError(f"{path} is damaged or not parquet: {error}. Fetch or write it again")


def _is_parquet(spec: str) -> bool:
    path = Path(spec)
    paths = _shard_paths(path) if path.is_dir() else [path] if path.is_file() else []
    return bool(paths) and starts_with(paths[0], b"PAR1")


PARQUET = SourceFormat(
    accepts=_is_parquet,
    open=open_parquet,
    form="a parquet file, or a folder of parquet files",
)
