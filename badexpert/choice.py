"""A seeded choice among the labelled samples of a source: what clean images and texts share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from badexpert.cleanchecks import note_of_missing
from badexpert.errors import CleanSetError
from badexpert.sources.base import Source
from badexpert.strata import apportion, choose, count_labels, together_if_alone

SourceT = TypeVar("SourceT", bound=Source[Any])


@dataclass(frozen=True, eq=False)
class Choice(Generic[SourceT]):
    """Some labelled samples of one source. Nothing is read until it is asked for.

    Attributes:
        source: where the samples come from.
        indices: of the samples in the source, (samples,) int64, ascending.
        labels: (samples,) int64, in 0..num_classes-1.
        num_classes: of the model; the set may lack some of the classes, see ``gaps``.
        notes: what a user should know about how the source was understood.
        class_names: names of the model's classes by index, as far as the source knows them.
    """

    source: SourceT
    indices: Tensor
    labels: Tensor
    num_classes: int
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    class_names: Mapping[int, str] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def missing_classes(self) -> tuple[int, ...]:
        """Classes of the model that no sample is of, ascending."""
        return tuple(sorted(set(range(self.num_classes)) - set(self.labels.unique().tolist())))

    @property
    def gaps(self) -> tuple[str, ...]:
        """A note if the set lacks classes of the model, which weakens what can be promised."""
        return note_of_missing(self.missing_classes, self.num_classes, self.class_names)

    def split(self, fraction: float, *, seed: int) -> tuple[Self, Self]:
        """Two disjoint parts, the first with ``fraction`` of the samples of each class.

        Classes with a single sample share theirs out between the parts as if they were one class;
        if there is only one of these, its sample goes to the first part.

        Raises:
            CleanSetError: there are fewer than 2 samples.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1; got {fraction}")
        if len(self) < 2:
            raise CleanSetError("a single sample cannot be split in two parts. Add samples")
        strata = together_if_alone(self.labels)
        counts = {label: count for label, count in count_labels(strata).items() if count > 1}
        shared = sum(counts.values())
        total = min(max(round(fraction * shared), len(counts)), shared - len(counts))
        first = choose(strata, apportion(counts, total, spare=1), seed=seed)
        first |= ~torch.isin(strata, torch.tensor(list(counts)))
        return self._where(first), self._where(~first)

    def take(self, count: int, *, seed: int) -> Self:
        """A part of ``count`` samples, with the classes in the same proportions.

        Raises:
            CleanSetError: there are fewer samples, or more classes than ``count``.
        """
        counts = count_labels(self.labels)
        if not len(counts) <= count <= len(self):
            raise CleanSetError(
                f"cannot take {count} of {len(self)} samples with each of {len(counts)} classes "
                f"in it. Ask for {len(counts)} to {len(self)}"
            )
        return self._where(choose(self.labels, apportion(counts, count, spare=0), seed=seed))

    def digest(self) -> str:
        """sha256 of what was chosen: ids and labels, so that it costs no reading."""
        digest = hashlib.sha256()
        for index, label in zip(self.indices.tolist(), self.labels.tolist(), strict=True):
            item = self.source.item_id(index).encode(errors="surrogateescape")
            digest.update(b"%d:%b=%d;" % (len(item), item, label))
        return digest.hexdigest()

    def _where(self, chosen: Tensor) -> Self:
        return replace(self, indices=self.indices[chosen], labels=self.labels[chosen])

    def _labels_at(self, indices: Tensor) -> Tensor:
        return self.labels[torch.searchsorted(self.indices, indices)]
