"""Batches of text: windows to predict, or labelled texts to classify."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moe_core.training.config import RecipeError, TrainingConfig


class Batch(NamedTuple):
    """Texts of one step.

    Attributes:
        ids_BT: (batch, tokens) int64.
        targets: next tokens, (batch, tokens), or classes, (batch,); int64.
        lengths_B: where texts were padded at their end, (batch,) int64; None where none was.
    """

    ids_BT: Tensor
    targets: Tensor
    lengths_B: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        lengths_B = None if self.lengths_B is None else self.lengths_B.to(device)
        return Batch(self.ids_BT.to(device), self.targets.to(device), lengths_B)


class Corpus(ABC):
    """Data of a training.

    Attributes:
        vocab_size: token numbers are below it.
        classes: names of the classes; none for language modelling.
    """

    vocab_size: int
    classes: tuple[str, ...] = ()

    @abstractmethod
    def draw(self, config: TrainingConfig, generator: torch.Generator) -> Batch:
        """A batch to train on."""

    @abstractmethod
    def validation(self, config: TrainingConfig) -> Iterator[Batch]:
        """Batches that training never sees, the same ones at each call."""

    @abstractmethod
    def digest(self) -> str:
        """Of all texts and labels: other data, another digest."""

    @abstractmethod
    def check(self, config: TrainingConfig) -> None:
        """Whether there is enough.

        Raises:
            RecipeError: there is not.
        """


class TextCorpus(Corpus):
    """One long text; windows of it are drawn with replacement.

    Args:
        ids_N: the whole text, (tokens,) int64.
    """

    def __init__(self, ids_N: Tensor, vocab_size: int) -> None:
        self._ids_N = ids_N
        self.vocab_size = vocab_size

    def draw(self, config: TrainingConfig, generator: torch.Generator) -> Batch:
        last = self._boundary(config) - config.length
        starts = torch.randint(last, (config.batch_size,), generator=generator)
        return self._windows(starts, config.length)

    def validation(self, config: TrainingConfig) -> Iterator[Batch]:
        first = self._boundary(config)
        starts = torch.arange(first, len(self._ids_N) - config.length, config.length)
        for chosen in starts.split(config.batch_size)[: config.validation_batches]:
            # Routers that share tokens equally need full batches, unless there is only one.
            if len(chosen) == config.batch_size or len(starts) < config.batch_size:
                yield self._windows(chosen, config.length)

    def digest(self) -> str:
        return _digest([self._ids_N])

    def check(self, config: TrainingConfig) -> None:
        boundary = self._boundary(config)
        shorter = min(boundary, len(self._ids_N) - boundary)
        if shorter <= config.length:
            raise RecipeError(
                f"the text has {boundary} tokens to train on and {len(self._ids_N) - boundary} to "
                f"validate on; both must exceed length={config.length}"
            )

    def _boundary(self, config: TrainingConfig) -> int:
        return round(len(self._ids_N) * (1 - config.validation))

    def _windows(self, starts: Tensor, length: int) -> Batch:
        windows = self._ids_N[starts.unsqueeze(1) + torch.arange(length + 1)]
        return Batch(windows[:, :-1], windows[:, 1:], None)


class ShortTexts(Corpus):
    """Texts that are drawn whole, with replacement; those at the end validate."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def padded(self, chosen: Tensor, length: int) -> Batch:
        """Some texts by index, (batch,) int64, padded or cut to one length."""

    def draw(self, config: TrainingConfig, generator: torch.Generator) -> Batch:
        chosen = torch.randint(self._boundary(config), (config.batch_size,), generator=generator)
        return self.padded(chosen, config.length)

    def validation(self, config: TrainingConfig) -> Iterator[Batch]:
        held_out = torch.arange(self._boundary(config), len(self))
        for chosen in held_out.split(config.batch_size)[: config.validation_batches]:
            yield self.padded(chosen, config.length)

    def check(self, config: TrainingConfig) -> None:
        boundary = self._boundary(config)
        if not 0 < boundary < len(self):
            raise RecipeError(
                f"{len(self)} texts cannot be split into training and validation="
                f"{config.validation}; give more of them"
            )

    def _boundary(self, config: TrainingConfig) -> int:
        return round(len(self) * (1 - config.validation))


class LabelledCorpus(ShortTexts):
    """Short texts, each of one class.

    Args:
        texts: (tokens,) int64 each; an empty one is a text of one token 0.
        labels: class of each, index into ``classes``.
    """

    def __init__(
        self,
        texts: Sequence[Tensor],
        labels: Sequence[int],
        classes: tuple[str, ...],
        vocab_size: int,
    ) -> None:
        # Files are often sorted by class; a fixed shuffle makes the end like the rest.
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
        self._texts = [texts[at] if len(texts[at]) else torch.zeros(1).long() for at in order]
        self._labels = torch.tensor(labels, dtype=torch.long)[order]
        self.classes = classes
        self.vocab_size = vocab_size

    def __len__(self) -> int:
        return len(self._texts)

    def batches(self, config: TrainingConfig) -> Iterator[Batch]:
        """All texts once: for texts that are there to be tested on."""
        for chosen in torch.arange(len(self._texts)).split(config.batch_size):
            yield self.padded(chosen, config.length)

    def digest(self) -> str:
        return _digest([*self._texts, self._labels])

    def padded(self, chosen: Tensor, length: int) -> Batch:
        texts = [self._texts[at][:length] for at in chosen.tolist()]
        ids_BT = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(ids_BT, texts, strict=True):
            row[: len(text)] = text
        return Batch(ids_BT, self._labels[chosen], torch.tensor([len(text) for text in texts]))


def _digest(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{len(tensor)}/".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
