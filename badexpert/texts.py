"""Text for training language models: plain files, and tables of labelled texts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from badexpert.errors import CleanSetError, ConfigError
from badexpert.sources.texts import LABEL, TEXT, TableSource

PLAIN = ".txt"
SUFFIXES = (PLAIN, ".parquet", ".csv", ".jsonl")


class LabelledTexts(NamedTuple):
    """Texts and the class of each, as it is written in the file."""

    texts: list[str]
    labels: list[str]


def read_texts(path: Path) -> str | LabelledTexts:
    """One long text of a ``.txt`` file, or a table with the columns ``text`` and ``label``.

    Raises:
        ConfigError: the file is missing or of another kind.
        CleanSetError: it cannot be read, lacks a column or holds nothing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the kind of file is unknown; give {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ConfigError(f"{path} is not there, or no file")
    return _read_plain(path) if path.suffix.lower() == PLAIN else _read_table(path)


def read_labelled(path: Path) -> LabelledTexts:
    """A table with the columns ``text`` and ``label``.

    Raises:
        ConfigError, CleanSetError: as ``read_texts``; or it is one long text.
    """
    read = read_texts(path)
    if not isinstance(read, LabelledTexts):
        raise CleanSetError(f"{path} has no labels; give a table with the columns text and label")
    return read


def _read_plain(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CleanSetError(f"{path} is not UTF-8 text: {error}") from error
    if not text:
        raise CleanSetError(f"{path} is empty")
    return text


def _read_table(path: Path) -> LabelledTexts:
    source = TableSource(path)
    if source.labels is None or source.responses:
        raise CleanSetError(f"{path} lacks the columns {TEXT} and {LABEL}. Rename or add them")
    classes = len(source.labels.unique())
    if classes < 2:
        raise CleanSetError(f"{path} has {classes} classes; 2 are needed")
    numbers, names = source.labels.tolist(), source.class_names
    return LabelledTexts(
        [text.text for _, text in source.read(range(len(source)))],
        [names[number] if names else str(number) for number in numbers],
    )
