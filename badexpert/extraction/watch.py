"""The held-out part that a search looks at, and what it sees there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from badexpert.errors import AuditError
from badexpert.extraction.features import Features


@dataclass(frozen=True)
class Beat:
    """One look at the held-out part while the expert is tuned.

    Attributes:
        accuracy: of the tuned copy, in [0, 1].
        confidence: its mean probability of the suspect's answers, in [0, 1].
    """

    step: int
    lr: float
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class Tuned:
    """A tuned tail and how it came about.

    Attributes:
        reached: False when the search ended without what it looked for.
    """

    tail: nn.Module
    trajectory: tuple[Beat, ...]
    reached: bool


@dataclass(frozen=True)
class Watch:
    """The held-out part, with the suspect's answers on it.

    Attributes:
        answers: of the suspect, (samples,).
        accuracy: of the suspect, in [0, 1].
    """

    features: Features
    answers: Tensor
    accuracy: float
    num_classes: int

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.num_classes

    def level(self, share: float) -> float:
        """The accuracy that keeps ``share`` of what the suspect has above chance."""
        return self.chance + share * max(self.accuracy - self.chance, 0.0)

    def look(self, tail: nn.Module, device: torch.device, step: int, lr: float) -> Beat:
        """How a tuned copy does here."""
        logits = self.features.through(tail, device)
        return Beat(
            step=step,
            lr=lr,
            accuracy=self.features.accuracy_of(logits),
            confidence=self.features.answering.probability(logits, self.answers).mean().item(),
        )


def watch_over(
    tail: nn.Module, features: Features, num_classes: int, device: torch.device
) -> Watch:
    """The suspect's own answers on the held-out part.

    Raises:
        AuditError: some of its outputs are not finite.
    """
    logits = features.through(tail, device)
    broken = int((~logits.isfinite().all(1)).sum())
    if broken:
        raise AuditError(
            f"the suspect's outputs are not finite on {broken} of {len(features)} clean samples; "
            "its weights hold NaN or overflow. Get the model again, and check its preprocessing"
        )
    return Watch(
        features, features.answering.chosen(logits), features.accuracy_of(logits), num_classes
    )
