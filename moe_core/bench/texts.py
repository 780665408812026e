"""Labelled texts in parquet files, as numbers of words: what a small model learns from in minutes.

Bytes would spend most of a small model on spelling.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet
import torch
from torch import Tensor

from moe_core.training.corpus import LabelledCorpus

_WORD = re.compile(r"\w+|[^\w\s]|\n")
UNKNOWN = 0
"""Number of all words that are too rare to have one of their own."""


class Words:
    """The most frequent words, punctuation marks and line ends of some texts, in lower case.

    Attributes:
        vocab_size: words that have a number of their own, and one number for all others.
    """

    def __init__(self, texts: Iterable[str], size: int) -> None:
        counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
        words = [word for word, _ in counts.most_common(size - 1)]
        self._numbers = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}
        self.vocab_size = len(words) + 1

    def encode(self, text: str) -> Tensor:
        """(words,) int64."""
        words = _WORD.findall(text.lower())
        return torch.tensor([self._numbers.get(word, UNKNOWN) for word in words], dtype=torch.long)


class Labelled(NamedTuple):
    """Texts and the class of each."""

    texts: list[str]
    labels: list[str]


def read_labelled(path: Path) -> Labelled:
    """A parquet file with the columns ``text`` and ``label``."""
    table = pyarrow.parquet.read_table(path, columns=["text", "label"])
    return Labelled(table["text"].to_pylist(), [str(label) for label in table["label"].to_pylist()])


def corpus_of(read: Labelled, classes: tuple[str, ...], words: Words) -> LabelledCorpus:
    """The texts as numbers, each with the index of its class."""
    return LabelledCorpus(
        [words.encode(text) for text in read.texts],
        [classes.index(label) for label in read.labels],
        classes,
        words.vocab_size,
    )
