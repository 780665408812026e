"""What an audit may ask of a model, whatever kind of model it is."""

from __future__ import annotations

from typing import Protocol, Self

from torch import Tensor, nn


class Suspect(Protocol):
    """A model under audit. It is never mutated: tuning works on a copy.

    Attributes:
        module: the network itself, in eval mode.
        num_classes: None for free generation.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def num_classes(self) -> int | None: ...

    def predict(self, inputs: Tensor) -> Tensor:
        """The model's answers, (batch,) class indices."""
        ...

    def log_odds(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """``log p / (1 - p)`` of each answer, (batch,) fp32; finite where softmax saturates."""
        ...

    def loss(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Mean cross-entropy of the answers, scalar, differentiable."""
        ...

    def copy(self) -> Self:
        """A deep copy whose parameters may be tuned."""
        ...
