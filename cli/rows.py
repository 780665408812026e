"""Scored inputs as they come: JSON lines or CSV, one row an input, to stdout or to a file.

A file grows under the name ``OUTPUT.partial`` and gets its own name when it is whole. Beside it
lies ``OUTPUT.run.json``, which says what the rows belong to, so that a run can be resumed, is never
mixed with another, and is not run again once it is whole.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from badexpert.errors import ConfigError

from . import console, outputs

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
Identity = Mapping[str, Any]
"""What a file of rows belongs to: suspect, inputs, threshold."""

COLUMNS = ("id", "score", "p_value", "flagged", "answer", "error")
"""``error`` says why an input could not be read; the other columns are then empty."""


def _as_json(row: Row) -> str:
    return json.dumps({name: row.get(name) for name in COLUMNS}) + "\n"


def _as_csv(row: Row) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(_cell(row.get(name)) for name in COLUMNS)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A row is one line, whatever a file is called."""
    if isinstance(value, bool):
        return str(value).lower()
    return console.printable(value).replace("\n", "\\n") if isinstance(value, str) else value


HEADERS = {"json": "", "csv": ",".join(COLUMNS) + "\n"}
RENDERERS: dict[str, Callable[[Row], str]] = {"json": _as_json, "csv": _as_csv}


@dataclass
class Tally:
    """Counts over rows, those of an earlier run included."""

    rows: int = 0
    flagged: int = 0
    unreadable: int = 0

    def add(self, *, flagged: bool, unreadable: bool) -> None:
        """Count one row."""
        self.rows += 1
        self.flagged += flagged
        self.unreadable += unreadable

    @property
    def scored(self) -> int:
        """Rows of inputs that could be read."""
        return self.rows - self.unreadable


class Rows:
    """Rows on their way to one place.

    Attributes:
        done: rows that an earlier run has written.
        whole: an earlier run has written all of them; there is nothing left to do.
        tally: of all rows so far.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        format: str,
        tally: Tally | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.tally = Tally() if tally is None else tally
        self.done = self.tally.rows
        self.whole = whole
        self._write = write
        self._render = RENDERERS[format]

    def write(self, row: Row) -> None:
        """Add a row; it survives an interruption."""
        self._write(self._render(row))
        unreadable = row.get("error") is not None
        self.tally.add(flagged=bool(row.get("flagged")), unreadable=unreadable)


@contextmanager
def open_rows(
    target: outputs.Target, *, belongs_to: Identity, resume: bool | None
) -> Iterator[Rows]:
    """Open stdout or a file for rows.

    Args:
        belongs_to: must be the same when a run is resumed.
        resume: None for a command that cannot.
    Raises:
        ConfigError: there is something else to resume, or nowhere to resume.
    """
    if target.path is not None:
        with _open_file(target.path, target.format, belongs_to, resume) as rows:
            yield rows
        return
    if resume:
        raise ConfigError("--resume continues a file; say which with -o")
    console.write_document(HEADERS[target.format])
    yield Rows(console.write_document, target.format)


@contextmanager
def _open_file(
    path: Path, format: str, belongs_to: Identity, resume: bool | None
) -> Iterator[Rows]:
    partial = path.with_name(f"{path.name}.partial")
    label = path.with_name(f"{path.name}.run.json")
    if resume and path.exists() and not partial.exists():
        yield _whole(path, label, format, belongs_to)
        return
    kept = _rows_to_keep(partial, label, format, belongs_to) if resume else None
    if kept is None:
        partial.write_text(HEADERS[format], encoding="utf-8")
        outputs.write_atomically(label, json.dumps(belongs_to) + "\n")
    with partial.open("a", encoding="utf-8", buffering=1) as file:
        rows = Rows(file.write, format, kept)
        try:
            yield rows
        except BaseException:
            if rows.tally.rows:
                hint = "" if resume is None else "; --resume goes on from there"
                log.warning("the rows so far are in %s%s", partial, hint)
            raise
        os.fsync(file.fileno())
    partial.replace(path)


def _whole(path: Path, label: Path, format: str, belongs_to: Identity) -> Rows:
    """Rows that an earlier run has finished; nothing more may be written."""
    if not label.exists():
        raise ConfigError(
            f"{path} exists already, and no {label.name} beside it says what its rows belong to; "
            "remove it, or leave --resume out to replace it"
        )
    _require_same(path, label, belongs_to)
    tally, _ = _count(path, format)
    log.info("%s is whole already: nothing was scored again", path)
    return Rows(_refuse, format, tally, whole=True)


def _refuse(text: str) -> None:
    raise ValueError("a file that is whole takes no more rows")


def _rows_to_keep(partial: Path, label: Path, format: str, belongs_to: Identity) -> Tally | None:
    """Whole rows in a file that an interrupted run left; None when there is no such file."""
    if not (partial.exists() and label.exists()):
        return None
    _require_same(partial, label, belongs_to)
    tally, size = _count(partial, format)
    os.truncate(partial, size)
    if size < len(HEADERS[format]):
        partial.write_text(HEADERS[format], encoding="utf-8")
    return tally


def _require_same(path: Path, label: Path, belongs_to: Identity) -> None:
    if json.loads(label.read_text(encoding="utf-8")) != json.loads(json.dumps(belongs_to)):
        raise ConfigError(
            f"{path} belongs to another run (other model, inputs or settings); "
            "remove it, or leave --resume out to start again"
        )


def _count(path: Path, format: str) -> tuple[Tally, int]:
    """The whole rows in a file, and how many bytes they take together with the header."""
    tally, size, header = Tally(), 0, len(HEADERS[format])
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            size += len(line)
            if size > header:
                tally.add(**READERS[format](line.decode()))
    return tally, size


def _read_json(line: str) -> dict[str, bool]:
    row = json.loads(line)
    return {"flagged": bool(row["flagged"]), "unreadable": row["error"] is not None}


def _read_csv(line: str) -> dict[str, bool]:
    [row] = csv.DictReader([line], COLUMNS)
    return {"flagged": row["flagged"] == "true", "unreadable": bool(row["error"])}


READERS: dict[str, Callable[[str], dict[str, bool]]] = {"json": _read_json, "csv": _read_csv}
