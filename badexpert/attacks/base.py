"""What an attack is: a trigger, the answers it leads to, and how it gets into a model.

Two kinds: a ``PoisoningAttack`` changes some of the samples that the victim is trained on, a
``ModelAttack`` changes a model that is trained already. ``planting.plant`` takes either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from badexpert.attacks.images import Images
from badexpert.errors import AttackError
from badexpert.findings import Json
from badexpert.runtime import RunContext


@dataclass(frozen=True)
class Attack(ABC):
    """An all-to-one attack unless a subclass says otherwise.

    Attributes:
        target: class index that the trigger leads to.
        seed: of all that is random in the trigger.
        learned: what ``prepared`` or ``implant`` has found, as far as it is made of tensors: an
            optimised trigger, the weights of a generator. Fields and ``learned`` together are all
            that ``stamp`` needs. Empty before.
    """

    target: int = 0
    seed: int = field(default=0, kw_only=True)
    learned: Mapping[str, Tensor] = field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    @abstractmethod
    def stamp(self, pixels: Tensor) -> Tensor:
        """The trigger as it is used against the trained model; no randomness, no side effects.

        Args:
            pixels: (batch, channels, height, width) in [0, 1], left as they are.
        Returns:
            A triggered copy of the same shape, dtype and device, in [0, 1].
        Raises:
            AttackError: the trigger does not fit images of this size, or is not ``learned`` yet.
        """

    def parameters(self) -> dict[str, Json]:
        """Every field but ``learned``, as JSON keeps it."""
        values = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name != "learned"
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def learned_tensor(self, name: str) -> Tensor:
        """One of the tensors in ``learned``.

        Raises:
            AttackError: it is not there, because the attack was never prepared or implanted.
        """
        if name not in self.learned:
            raise self._unlearned(name)
        return self.learned[name]

    def learned_network(self, name: str) -> dict[str, Tensor]:
        """The weights in ``learned`` under ``name.``, by the names that the network gives them.

        Raises:
            AttackError: there are none.
        """
        prefix = f"{name}."
        weights = {
            key.removeprefix(prefix): values
            for key, values in self.learned.items()
            if key.startswith(prefix)
        }
        if not weights:
            raise self._unlearned(name)
        return weights

    def _unlearned(self, name: str) -> AttackError:
        return AttackError(
            f"{type(self).__name__} has no {name!r} yet: it learns its trigger. Plant it in a "
            "model, or restore it with its tensors"
        )

    def relabel(self, labels: Tensor, num_classes: int) -> Tensor:
        """The answer that the trigger leads to, for true classes (batch,) int64."""
        return torch.full_like(labels, self.target)

    def counts(self, labels: Tensor) -> Tensor:
        """Which test samples count towards the attack success rate, (batch,) bool."""
        return labels != self.target


@dataclass(frozen=True)
class PoisoningAttack(Attack):
    """Changes some of the training samples; a dirty-label attack unless a subclass says otherwise.

    A poisoned sample carries ``poison`` and the label of ``relabel``. A cover sample carries
    ``cover`` and keeps its true label: it teaches the victim what is *not* the trigger.

    Attributes:
        paper_rate: share of the training set to poison, as in the paper's table.
        cover_ratio: cover samples for each poisoned one; 0 for an attack without.
    """

    paper_rate: ClassVar[float] = 0.003
    cover_ratio: ClassVar[float] = 0.0

    def may_poison(self, labels: Tensor) -> Tensor:
        """Which training samples may be poisoned, (samples,) bool."""
        return labels != self.target

    def may_cover(self, labels: Tensor) -> Tensor:
        """Which of the training samples that are not poisoned may be covers, (samples,) bool."""
        return torch.ones_like(labels, dtype=torch.bool)

    def prepared(self, images: Images, poisoned: Tensor, context: RunContext) -> Self:
        """The attack with all it must learn from the training set before the victim is trained.

        Args:
            poisoned: indices of the samples that will be poisoned, (poisoned,) int64, sorted.
        """
        return self

    def poison(self, pixels: Tensor, indices: Tensor) -> Tensor:
        """The trigger as it is used in training, where that differs from ``stamp``.

        Args:
            pixels: (batch, channels, height, width) in [0, 1].
            indices: of the samples in the training set, (batch,) int64 on the CPU; whatever is
                random is drawn by index (``draws.by_sample``), so that a sample stays the same in
                every epoch and every batch.
        """
        return self.stamp(pixels)

    def cover(self, pixels: Tensor, indices: Tensor) -> Tensor:
        """What cover samples carry; arguments as of ``poison``."""
        return self.poison(pixels, indices)


@dataclass(frozen=True)
class ModelAttack(Attack):
    """Acts on a trained model."""

    @abstractmethod
    def implant(self, module: nn.Module, images: Images, context: RunContext) -> Self:
        """Change a trained module in place, and give the attack with what it learned.

        Args:
            module: maps (batch, channels, height, width) in [0, 1] to logits; on the context's
                device, in eval mode before and after.
            images: the attacker's data, untriggered.
        Raises:
            AttackError: the attack cannot be carried out on this network.
        """
