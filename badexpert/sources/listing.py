"""A list of image paths: plain text, CSV with a header, or JSON lines."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from badexpert.errors import CleanSetError
from badexpert.sources.base import ImageSource, SourceFormat
from badexpert.sources.classes import number_labels
from badexpert.sources.files import FileSource

PATH_FIELDS = ("path", "file_name", "filename", "file", "image")
LABEL_FIELDS = ("label", "class", "target")

_DELIMITERS = ",;\t"


def open_listing(spec: str, root: Path | None) -> ImageSource:
    """A list of paths, relative to the folder that the list lies in.

    Plain text has one path a line. CSV (or semicolons, or tabs) has a header with ``path`` or
    ``file_name``, and ``label`` if there are labels; JSON lines have these as keys. Labels are
    numbers or names of classes.

    Raises:
        CleanSetError: a line cannot be understood, or only some lines have labels.
    """
    listing = Path(spec)
    with listing.open(encoding="utf-8-sig", newline="") as file:
        lines = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
    rows = list(_rows(spec, lines))
    if not rows:
        raise CleanSetError(f"{spec} lists no image; write one path a line")
    paths = [path for path, _ in rows]
    labels = [label for _, label in rows if label is not None]
    if not labels:
        return FileSource(spec, listing.parent, paths)
    if len(labels) < len(rows):
        raise CleanSetError(
            f"{spec}: {len(rows) - len(labels)} of {len(rows)} lines have no label; "
            "label all of them, or none"
        )
    numbers, names = number_labels(labels)
    return FileSource(spec, listing.parent, paths, labels=numbers, class_names=names)


Row = tuple[str, int | str | None]


def _rows(spec: str, lines: list[tuple[int, str]]) -> Iterator[Row]:
    if not lines:
        return iter(())
    first = lines[0][1].strip()
    if first.startswith("{"):
        return (_from_fields(spec, number, _parse(spec, number, line)) for number, line in lines)
    delimiter = next((mark for mark in _DELIMITERS if mark in first), ",")
    if set(PATH_FIELDS) & set(first.split(delimiter)):
        return _from_csv(spec, lines, delimiter)
    return ((line.strip(), None) for _, line in lines)


def _parse(spec: str, number: int, line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise CleanSetError(f"{spec}, line {number} is not JSON: {error}. Mend it") from error
    if not isinstance(fields, dict):
        raise CleanSetError(f'{spec}, line {number} is not an object; write {{"path": ...}}')
    return fields


def _from_csv(spec: str, lines: list[tuple[int, str]], delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
    for (number, _), fields in zip(lines[1:], reader, strict=False):
        yield _from_fields(spec, number, fields)


def _from_fields(spec: str, number: int, fields: dict[str, Any]) -> Row:
    path = _first(fields, PATH_FIELDS)
    if not isinstance(path, str) or not path:
        raise CleanSetError(f"{spec}, line {number} names no image; it needs a field path")
    label = _first(fields, LABEL_FIELDS)
    if label == "":
        label = None
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise CleanSetError(f"{spec}, line {number} has the label {label!r}; use a number or name")
    return path, label


def _first(fields: dict[str, Any], names: Iterable[str]) -> Any:
    return next((fields[name] for name in names if name in fields), None)


def _is_text(spec: str) -> bool:
    path = Path(spec)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    try:
        # Incremental, because the cut may fall inside a character.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


LISTING = SourceFormat(
    accepts=_is_text,
    open=open_listing,
    form="a list of image paths (text, CSV with a header, JSON lines)",
)
