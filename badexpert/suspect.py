"""What an audit may ask of a model, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from badexpert.models.answering import Answering
from badexpert.models.origin import Origin
from badexpert.preprocessing import Preprocessing
from badexpert.text_reading import TextReading

Inputs = Tensor | Sequence[str]
"""Pixels, rows of tokens, or texts: each kind of suspect takes its own."""


class Suspect(Protocol):
    """A model under audit. It is never mutated: tuning works on a copy.

    Attributes:
        module: the user's own network, in eval mode.
        network: around it, from what ``network_inputs`` returns to scores.
        num_classes: None for free generation.
        preprocessing: from a file to what the network takes.
        origin: where the model came from.
        answering: how answers are read off scores.
        device: where the weights are.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def num_classes(self) -> int | None: ...

    @property
    def preprocessing(self) -> Preprocessing | TextReading: ...

    @property
    def network(self) -> nn.Module: ...

    @property
    def origin(self) -> Origin: ...

    @property
    def answering(self) -> Answering: ...

    @property
    def device(self) -> torch.device: ...

    def network_inputs(self, inputs: Any) -> Tensor:
        """Inputs as the network takes them, on its device."""
        ...

    def predict(self, inputs: Any) -> Tensor:
        """The model's answers, (batch,) class indices."""
        ...

    def log_odds(self, inputs: Any, answers: Tensor) -> Tensor:
        """``log p / (1 - p)`` of each answer, (batch,) fp32; finite where softmax saturates."""
        ...

    def loss(self, inputs: Any, answers: Tensor) -> Tensor:
        """Mean cross-entropy of the answers, scalar, differentiable."""
        ...

    def spelled(self, inputs: Tensor, answers: Tensor) -> list[int | str]:
        """Answers to what ``network_inputs`` returned as a person reads them."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device, in place."""
        ...

    def copy(self) -> Self:
        """A deep copy whose parameters may be tuned."""
        ...
