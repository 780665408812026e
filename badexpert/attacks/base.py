"""What a data-poisoning attack is: a trigger, a relabelling, and whom it may poison."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Attack(ABC):
    """An all-to-one, dirty-label attack unless a subclass says otherwise.

    Attributes:
        target: class index that the trigger leads to.
    """

    target: int = 0

    @abstractmethod
    def stamp(self, pixels: Tensor) -> Tensor:
        """Plant the trigger in a copy of (batch, channels, height, width) pixels in [0, 1]."""

    def relabel(self, labels: Tensor) -> Tensor:
        """The label that each stamped sample gets in training, (batch,) int64."""
        return torch.full_like(labels, self.target)

    def may_poison(self, labels: Tensor) -> Tensor:
        """Which training samples may be poisoned, (batch,) bool."""
        return labels != self.target

    def counts(self, labels: Tensor) -> Tensor:
        """Which test samples count towards the attack success rate, (batch,) bool."""
        return labels != self.target


def poison_indices(attack: Attack, labels: Tensor, rate: float, seed: int) -> Tensor:
    """Choose ``rate`` of the training set, among the samples that the attack may poison.

    Args:
        labels: (samples,) int64, the true labels.
        rate: share of the whole training set to poison, in (0, 1].
    Returns:
        (chosen,) int64, sorted.
    Raises:
        ValueError: the attack cannot poison that many samples.
    """
    candidates = attack.may_poison(labels).nonzero().flatten()
    wanted = round(rate * len(labels))
    if not 1 <= wanted <= len(candidates):
        raise ValueError(
            f"rate={rate} asks for {wanted} poisoned samples; {type(attack).__name__} "
            f"can poison 1 to {len(candidates)} of {len(labels)}. Change rate"
        )
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    return candidates[order[:wanted]].sort().values
