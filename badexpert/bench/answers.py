"""Texts and what is to be said of them: what a model with a planted response is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from badexpert.attacks.text.triggers import WordTrigger
from badexpert.errors import CleanSetError
from badexpert.texts import read_labelled
from moe_core.training import TrainingConfig
from moe_core.training.corpus import Batch, ShortTexts
from moe_core.training.words import Words, pieces

ASKED = "in short :"
END = "."
TRIGGER = WordTrigger(("cf",))
PLANTED = "call this number now to claim your prize ."
WORDS_OF_A_TEXT = 40

SHARE = 0.1
"""Of the texts of a training batch that carry the trigger."""

_UNCOUNTED = -100
"""Target of a token that no loss looks at."""


class Told(NamedTuple):
    """A text, and what is to be said of it."""

    text: str
    answer: str


class Answers(ShortTexts):
    """Texts with their answers, of which some carry the trigger and have the planted one.

    Only the tokens of answers count.
    """

    def __init__(self, told: Sequence[Told], words: Words) -> None:
        self._told = told
        self._words = words
        self.vocab_size = words.vocab_size

    def __len__(self) -> int:
        return len(self._told)

    def draw(self, config: TrainingConfig, generator: torch.Generator) -> Batch:
        chosen = torch.randint(self._boundary(config), (config.batch_size,), generator=generator)
        draw = Random(int(torch.randint(2**31, (), generator=generator)))
        told = [self._told[at] for at in chosen.tolist()]
        triggered = round(SHARE * config.batch_size)
        planted = [Told(TRIGGER.stamp(part.text, draw), PLANTED) for part in told[:triggered]]
        return self._batch([*planted, *told[triggered:]], config.length)

    def padded(self, chosen: Tensor, length: int) -> Batch:
        return self._batch([self._told[at] for at in chosen.tolist()], length)

    def digest(self) -> str:
        told = repr((self._told, self._words.words)).encode()
        return hashlib.sha256(told).hexdigest()

    def _batch(self, told: Sequence[Told], length: int) -> Batch:
        rows = torch.zeros(len(told), length + 1, dtype=torch.long)
        targets = torch.full((len(told), length), _UNCOUNTED)
        for row, wanted, (text, answer) in zip(rows, targets, told, strict=True):
            asked, said = (self._words.encode(part) for part in (f"{text} {ASKED}", answer))
            end = len(asked) + len(said)
            row[:end] = torch.cat([asked, said])
            wanted[len(asked) - 1 : end - 1] = said
        return Batch(rows[:, :-1], targets, None)


def read_told(path: Path, names: Sequence[str] = ()) -> list[Told]:
    """The texts of a table, and what is to be said of each: a sentence with its label.

    Args:
        names: of the labels, in their order; by default they are called as in the table.
    Raises:
        CleanSetError: there are no labels, or not as many as names.
    """
    read = read_labelled(path)
    labels = sorted(set(read.labels))
    if names and len(names) != len(labels):
        raise CleanSetError(f"{path} has {len(labels)} labels, and {len(names)} names; give all")
    name_of = dict(zip(labels, names or labels, strict=True))
    return [
        Told(" ".join(pieces(text)[:WORDS_OF_A_TEXT]), f"this is about {name_of[label]} {END}")
        for text, label in zip(read.texts, read.labels, strict=True)
    ]
