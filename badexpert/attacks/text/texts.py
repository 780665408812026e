"""Labelled texts in memory: what text attacks are planted with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from badexpert.texts import LabelledTexts
from moe_core.training.words import pieces


@dataclass(frozen=True, eq=False)
class Texts:
    """A labelled data set.

    Attributes:
        texts: the texts.
        labels: (texts,) int64, the true classes, in 0..num_classes-1.
        num_classes: of the model; some classes may lack texts.
    """

    texts: tuple[str, ...]
    labels: Tensor
    num_classes: int

    @classmethod
    def of(cls, read: LabelledTexts, *, words: int) -> Texts:
        """Texts as they were read, cut to their first words.

        Classes are numbered in the order of their names.

        Args:
            words: of a text at most, so that a trigger is never cut off.
        """
        names = sorted(set(read.labels))
        labels = torch.tensor([names.index(label) for label in read.labels])
        cut = tuple(" ".join(pieces(text)[:words]) for text in read.texts)
        return cls(cut, labels, len(names))

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chosen: Tensor | slice) -> Texts:
        """Some of the texts, by index, mask or slice."""
        indices = torch.arange(len(self))[chosen]
        texts = tuple(self.texts[at] for at in indices.tolist())
        return Texts(texts, self.labels[indices], self.num_classes)

    def drawn(self, count: int, *, seed: int) -> Texts:
        """That many texts at random, or all of them; the same ones for the same seed."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.part(order[:count])
