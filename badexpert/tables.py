"""Rows of a table, one after the other: JSON lines, CSV with a header, parquet.

What a file is, its content decides. Rows are read in pieces, so a table may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from badexpert.errors import CleanSetError

Row = Mapping[str, Any]
"""Cells by the name of their column, as far as these were asked for and are there."""

Kind = Literal["parquet", "jsonl", "csv", "plain"]

_HEAD = 4096
_PARQUET = b"PAR1"
_DELIMITERS = ",;\t"
_ROWS = 1024


def kind_of(path: Path, columns: Collection[str]) -> Kind:
    """What a file is: a table with one of these columns in its header, or plain text.

    Raises:
        CleanSetError: it is neither parquet nor UTF-8 text.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_PARQUET):
        return "parquet"
    if b"\0" in head:
        raise CleanSetError(f"{path} is neither text nor parquet. Give JSON lines, CSV or parquet")
    first = head.decode("utf-8", errors="replace").lstrip("\ufeff \r\n\t").partition("\n")[0]
    if first.startswith("{"):
        return "jsonl"
    names = {name.strip().strip('"') for name in first.split(_delimiter(first))}
    return "csv" if names & set(columns) else "plain"


def read_rows(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a table, of each only the cells in these columns.

    A cell of CSV is text. A file that is no table gives rows of the single column ``text``, one a
    line that is not blank.

    Raises:
        CleanSetError: the file is damaged, or a line is no row.
    """
    kind = kind_of(path, columns)
    if kind == "parquet":
        return _from_parquet(path, columns)
    if kind == "csv":
        return _from_csv(path, columns)
    if kind == "jsonl":
        return _from_json_lines(path, columns)
    return ({"text": line} for _, line in _lines(path))


def columns_of(path: Path, columns: Collection[str]) -> tuple[str, ...]:
    """Names of the columns that a table has; of JSON lines, those of the first one.

    Raises:
        CleanSetError: see ``read_rows``.
    """
    kind = kind_of(path, columns)
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return tuple(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
    if kind == "plain":
        return ("text",)
    number, line = next(_lines(path))
    if kind == "jsonl":
        return tuple(_parsed(path, number, line))
    return tuple(name.strip().strip('"') for name in line.split(_delimiter(line)))


def _delimiter(header: str) -> str:
    return next((mark for mark in _DELIMITERS if mark in header), ",")


def _from_parquet(path: Path, columns: Collection[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(_ROWS, columns=wanted, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _from_csv(path: Path, columns: Collection[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.csv

    parse = pyarrow.csv.ParseOptions(
        delimiter=_delimiter(next(_lines(path))[1]), newlines_in_values=True
    )
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
    try:
        with pyarrow.csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
            for batch in reader:
                wanted = [name for name in batch.schema.names if name in columns]
                yield from batch.select(wanted).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _from_json_lines(path: Path, columns: Collection[str]) -> Iterator[Row]:
    for number, line in _lines(path):
        fields = _parsed(path, number, line)
        yield {name: fields[name] for name in columns if name in fields}


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CleanSetError(f"{path}, line {number} is not JSON: {error}. Mend it") from error
    if not isinstance(fields, dict):
        raise CleanSetError(f"{path}, line {number} is not an object with columns by name")
    return fields


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from _numbered(file)
    except UnicodeDecodeError as error:
        raise CleanSetError(f"{path} is not UTF-8 text: {error}. Convert it") from error


def _numbered(file: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, line.strip()) for number, line in enumerate(file, 1) if line.strip())


def _damaged(path: Path, error: Exception) -> CleanSetError:
    return CleanSetError(f"{path} is damaged: {error}. Fetch or write it again")
