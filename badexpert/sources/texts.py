"""Texts from tables: labelled texts, prompts with responses, or inputs alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from badexpert.errors import CleanSetError
from badexpert.sources.base import Source, Unreadable
from badexpert.sources.classes import number_labels
from badexpert.tables import columns_of, read_rows

TEXT, LABEL = "text", "label"
PROMPT, RESPONSE = "prompt", "response"
_COLUMNS = (TEXT, LABEL, PROMPT, RESPONSE)

MAX_CHARACTERS = 1 << 20
"""A longer text is no input of a language model, but a damaged file."""

FORMS = f"columns {TEXT} and {LABEL}, or {PROMPT} and {RESPONSE}"


class Text(NamedTuple):
    """One input of a language model.

    Attributes:
        text: what the model is given.
        response: what it should answer; empty where a label says that, or nothing does.
    """

    text: str
    response: str = ""


class TextSource(Source[Text]):
    """Texts, of which the class or the response may be known.

    Attributes:
        responses: whether every text has a response.
    """

    responses: bool = False

    @abstractmethod
    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, Text]]: ...


class TableSource(TextSource):
    """The rows of a file; ids are ``name.csv#17``, from 0. It is read anew, forwards, each time."""

    def __init__(self, path: Path) -> None:
        """Read all labels, and check every row, once.

        Raises:
            CleanSetError: a row lacks its text or what other rows have, or there is no row.
        """
        self.name = str(path)
        self._path = path
        columns = _known_columns(path)
        self._column = TEXT if TEXT in columns else PROMPT
        self.responses = RESPONSE in columns and self._column == PROMPT
        labels: list[int | str] = []
        self._count = 0
        for number, row in enumerate(read_rows(path, _COLUMNS)):
            self._check(number, row)
            if LABEL in columns:
                labels.append(_label(path, number, row))
            self._count += 1
        if self._count == 0:
            raise CleanSetError(f"{path} has 0 rows; give a table with texts in it")
        if LABEL in columns:
            self.labels, self.class_names = number_labels(labels)

    def __len__(self) -> int:
        return self._count

    def item_id(self, index: int) -> str:
        return f"{self._path.name}#{index}"

    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, Text]]:
        rows = enumerate(read_rows(self._path, _COLUMNS))
        for index in indices:
            _, row = next(item for item in rows if item[0] == index)
            yield index, Text(row[self._column], row[RESPONSE] if self.responses else "")

    def _check(self, number: int, row: Any) -> None:
        wanted = (self._column, RESPONSE) if self.responses else (self._column,)
        for name in wanted:
            cell = row.get(name)
            if not isinstance(cell, str) or not cell or len(cell) > MAX_CHARACTERS:
                found = f"{len(cell):,} characters" if cell and isinstance(cell, str) else cell
                raise CleanSetError(
                    f"{self.name}, row {number + 1}: {name} is {found!r}; give a text of 1 to "
                    f"{MAX_CHARACTERS:,} characters, or remove the row"
                )


class TextList(TextSource):
    """Texts that already lie in memory; ids are ``text#17``."""

    def __init__(
        self,
        texts: Sequence[Text],
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
        *,
        responses: bool = False,
    ) -> None:
        self.name = "texts"
        self.labels = labels
        self.class_names = class_names
        self.responses = responses
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def item_id(self, index: int) -> str:
        return f"text#{index}"

    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, Text]]:
        for index in indices:
            yield index, self._texts[index]


class TextBatch(NamedTuple):
    """Some texts of a source, in its order; never empty.

    Attributes:
        inputs: what the model is given, (batch,).
        responses: (batch,); empty ones where the source has none.
        labels: (batch,) int64, or None when the source has none.
        ids: of the texts, (batch,).
        indices: of the texts in the source, (batch,) int64, ascending.
        unreadable: none; every row was checked when the source was opened.
    """

    inputs: tuple[str, ...]
    responses: tuple[str, ...]
    labels: Tensor | None
    ids: tuple[str, ...]
    indices: Tensor
    unreadable: tuple[Unreadable, ...] = ()


def open_texts(spec: str | Path) -> TextSource:
    """Open a table of texts, or plain text with one input a line.

    Raises:
        CleanSetError: nothing is there, or it holds no such columns.
    """
    path = Path(spec)
    if not path.is_file():
        raise CleanSetError(f"{spec} is no file. Give JSON lines, CSV or parquet with {FORMS}")
    return TableSource(path)


def stream_texts(
    source: TextSource, *, batch_size: int, indices: Tensor | None = None
) -> Iterator[TextBatch]:
    """Read a source in ascending order, a batch at a time.

    Args:
        indices: which texts, (wanted,) int64, strictly ascending; None reads all.
    """
    items = source.read(range(len(source)) if indices is None else indices.tolist())
    while chunk := list(islice(items, batch_size)):
        at = torch.tensor([index for index, _ in chunk])
        yield TextBatch(
            inputs=tuple(text.text for _, text in chunk),
            responses=tuple(text.response for _, text in chunk),
            labels=None if source.labels is None else source.labels[at],
            ids=tuple(source.item_id(index) for index in at.tolist()),
            indices=at,
        )


def _known_columns(path: Path) -> set[str]:
    columns = columns_of(path, _COLUMNS)
    if {TEXT, PROMPT} <= set(columns) or not {TEXT, PROMPT} & set(columns):
        raise CleanSetError(
            f"{path} has the columns {', '.join(columns)}; expected {FORMS}. Rename them"
        )
    return set(columns)


def _label(path: Path, number: int, row: Any) -> int | str:
    label = row.get(LABEL)
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise CleanSetError(
            f"{path}, row {number + 1}: {LABEL} is {label!r}; give a class number or name"
        )
    return label
