"""The clean samples as a tail sees them: trunk outputs, computed once and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from badexpert.models.answering import CLASSES, Answering

_ROWS = 256
"""Samples a pass outside of training."""


@dataclass(frozen=True)
class Features:
    """Trunk outputs with the labels that belong to them.

    Attributes:
        values: (samples, ...), uint8 pixels where the trunk is empty; tokens are values too.
        labels: (samples,) int64, the true classes.
        answering: how answers are read off what a tail makes of the values.
        views: how many of each sample there are, all of the first view before all of the second.
    """

    values: Tensor
    labels: Tensor
    answering: Answering = CLASSES
    views: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def samples(self) -> int:
        """How many there are, each counted once."""
        return len(self) // self.views

    def rows(self, index: Tensor, device: torch.device) -> Tensor:
        """Some samples as a tail takes them: on the device, pixels in [0, 1]."""
        return _floating(self.values[index].to(device))

    def where(self, chosen: Tensor) -> Self:
        """The chosen samples, by index or mask."""
        return replace(self, values=self.values[chosen], labels=self.labels[chosen])

    @torch.inference_mode()
    def through(self, tail: nn.Module, device: torch.device) -> Tensor:
        """Logits of all samples, (samples, classes) fp32, on the CPU."""
        outputs = [tail(_floating(rows.to(device))).float() for rows in self.values.split(_ROWS)]
        return torch.cat(outputs).cpu()

    def accuracy_of(self, logits: Tensor) -> float:
        """Share of the samples that logits, (samples, classes), get right, in [0, 1]."""
        return (logits.argmax(1) == self.labels).float().mean().item()


def _floating(values: Tensor) -> Tensor:
    return values.float() / 255 if values.dtype == torch.uint8 else values


def compute_features(trunk: nn.Module, samples: Features, device: torch.device) -> Features:
    """Run the trunk once over samples that are as the whole network takes them."""
    if isinstance(trunk, nn.Identity):
        return samples
    with torch.no_grad():
        rows = samples.values.split(_ROWS)
        parts = [trunk(_floating(part.to(device))).cpu() for part in rows]
    return replace(samples, values=torch.cat(parts))


def spread_over_wrong(labels: Tensor, num_classes: int) -> Tensor:
    """Targets with equal weight on every wrong class and none on the true one.

    This is the expectation of a label drawn anew from the wrong classes at every step.

    Returns:
        (samples, classes), rows sum to 1.
    """
    return (1 - one_hot(labels, num_classes).float()) / (num_classes - 1)
