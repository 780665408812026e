"""Clean texts: labelled ones, or prompts with their responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from badexpert.choice import Choice
from badexpert.cleanchecks import check_labels, names_of_classes, renumber
from badexpert.cleanset import CleanSet
from badexpert.errors import CleanSetError
from badexpert.sources.base import Unreadable
from badexpert.sources.texts import (
    FORMS,
    Text,
    TextBatch,
    TextList,
    TextSource,
    open_texts,
    stream_texts,
)

_CHUNK = 256


@dataclass(frozen=True, eq=False)
class TextCleanSet(Choice[TextSource]):
    """A choice of labelled texts, or of prompts with responses, of one source.

    Prompts with responses are all of one class: there is nothing to keep in proportion.
    """

    @classmethod
    def open(
        cls,
        spec: str | Path,
        *,
        num_classes: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        class_index: Mapping[str, int] | None = None,
    ) -> Self:
        """Open and check a clean set.

        Args:
            spec: JSON lines, CSV or parquet with ``text`` and ``label`` or ``prompt`` and
                ``response``.
            num_classes: of the model; None where the labels are all that says it.
            limit: keep at most this many samples, chosen by class with ``seed``.
            class_index: the model's index of each class name, where the model does not number
                the classes as the table does.
        Raises:
            CleanSetError: missing, neither labelled nor answered, empty, of one class only, or
                with labels that the model does not have.
        """
        source = open_texts(spec)
        whole = cls.from_source(source, num_classes=num_classes, class_index=class_index)
        return whole if limit is None or limit >= len(whole) else whole.take(limit, seed=seed)

    @classmethod
    def from_source(
        cls,
        source: TextSource,
        *,
        num_classes: int | None = None,
        class_index: Mapping[str, int] | None = None,
    ) -> Self:
        """All texts of a source; see ``open``."""
        everything = torch.arange(len(source))
        if source.responses:
            return cls(source, everything, torch.zeros_like(everything), num_classes=1)
        if source.labels is None:
            raise CleanSetError(
                f"{source.name} has neither labels nor responses, and a clean set needs one of "
                f"them: {FORMS}. Add the column"
            )
        labels = source.labels if class_index is None else renumber(source, class_index)
        if num_classes is None:
            num_classes = max(int(labels.max()) + 1, len(source.class_names or ()))
        check_labels(source, labels, num_classes, renumbered=class_index is not None)
        names = names_of_classes(source, class_index)
        return cls(source, everything, labels, num_classes, notes=source.notes, class_names=names)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        labels: Sequence[int] | Tensor,
        *,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> Self:
        """Labelled texts from memory, each with a class index.

        Raises:
            CleanSetError: what ``open`` refuses.
        """
        if len(texts) != len(labels):
            raise CleanSetError(f"{len(texts)} texts with {len(labels)} labels; give one each")
        source = TextList(
            [Text(text) for text in texts],
            torch.as_tensor(labels, dtype=torch.int64),
            None if class_names is None else tuple(class_names),
        )
        return cls.from_source(source, num_classes=num_classes)

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[str, str]]) -> Self:
        """Prompts with their responses from memory."""
        return cls.from_source(TextList([Text(*pair) for pair in pairs], responses=True))

    @property
    def responses(self) -> bool:
        """Whether these are prompts with responses, and not labelled texts."""
        return self.source.responses

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """None: a table with an unreadable row is refused as a whole."""
        return ()

    def batches(self, batch_size: int, *, workers: int = 0) -> Iterator[TextBatch]:
        """Stream the set in the order of the source, in bounded memory.

        Args:
            workers: texts need no decoding, so there are none.
        """
        for batch in stream_texts(self.source, batch_size=batch_size, indices=self.indices):
            yield batch._replace(labels=self._labels_at(batch.indices))

    def texts(self) -> list[Text]:
        """All texts of the set, in its order."""
        return [
            Text(*pair)
            for batch in self.batches(_CHUNK)
            for pair in zip(batch.inputs, batch.responses, strict=True)
        ]


CleanSamples = CleanSet | TextCleanSet
"""Clean samples of any kind."""
