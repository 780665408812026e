"""How far from the clean samples of its answer an input lies, in the suspect's own layers.

Tuned copies see a backdoor by what they forget. This sees it by the way that the suspect takes: a
triggered input ends at an answer whose clean samples it was never near. The two fail on different
attacks; layers are looked into on the pass that gives the suspect's answer, at no further one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, fx

from badexpert.extraction.features import Features
from badexpert.extraction.watch import Watch
from badexpert.taps import tapped

PER_CLASS = 20
"""Clean samples of each class to compare with."""

MAX_SAMPLES = 2000
"""To compare with altogether, so that memory stays bounded with many classes."""

_FEATURES, _RADII = "features.", "radii."

_ROWS = 256

_LEAST = 1e-12
"""A distance whose logarithm is still finite."""


@dataclass(frozen=True)
class Neighbours:
    """Clean samples as the suspect's layers see them, in order of their classes.

    Attributes:
        features: by place, in alphabetical order, (classes, samples, values) fp32; nothing where
            ``present`` is False.
        radii: by place, the median distance of each sample to the others of its class, (classes,
            samples).
        present: (classes, samples) bool.
    Source: the tube around each class is that of Le et al., "TED++", ICDM 2025, arXiv:2510.14299.
    Departs: the distance itself is kept, as the logarithm of its ratio to the tube's radius, and
        not the rank of the neighbour; only where the network may be cut is it looked into; the
        mean over layers takes the place of an outlier score of its own.
    """

    features: Mapping[str, Tensor]
    radii: Mapping[str, Tensor]
    present: Tensor

    @classmethod
    def of(cls, features: Mapping[str, Tensor], present: Tensor) -> Self:
        """With the radii that belong to the features."""
        known = {place: values * present[..., None] for place, values in features.items()}
        radii = {place: _radii(values, present) for place, values in known.items()}
        return cls(known, radii, present)

    def distance(self, rows: Sequence[Tensor], answers: Tensor) -> Tensor:
        """How far inputs lie from the nearest sample of their answer.

        Args:
            rows: at each place, (batch, values).
            answers: of the suspect, (batch,).
        Returns:
            (batch,) fp64: the logarithm of the distance in radii of that sample, its mean over
            the places. An input whose answer has no samples lies at one radius.
        """
        found = [
            self._at(place, values, answers)
            for place, values in zip(self.features, rows, strict=True)
        ]
        return torch.stack(found).mean(0)

    def _at(self, place: str, rows: Tensor, answers: Tensor) -> Tensor:
        apart = (rows[:, None] - self.features[place][answers]).norm(dim=2)
        nearest, neighbour = apart.masked_fill(~self.present[answers], math.inf).min(1)
        radius = self.radii[place][answers].gather(1, neighbour[:, None]).squeeze(1)
        logarithm = (nearest.double() / radius).clamp_min(_LEAST).log()
        return torch.where(nearest.isinf(), 0.0, logarithm)

    def state(self) -> dict[str, Tensor]:
        """Tensors that ``from_state`` takes back."""
        return {
            "present": self.present,
            **{_FEATURES + place: values for place, values in self.features.items()},
            **{_RADII + place: values for place, values in self.radii.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """What ``state`` returned.

        Raises:
            RuntimeError: tensors are missing.
        """
        features = {name: values for name, values in state.items() if name.startswith(_FEATURES)}
        places = sorted(name.removeprefix(_FEATURES) for name in features)
        try:
            return cls(
                {place: state[_FEATURES + place] for place in places},
                {place: state[_RADII + place] for place in places},
                state["present"],
            )
        except KeyError as error:
            raise RuntimeError(f"of the samples to compare with, {error} is missing") from error


@torch.no_grad()
def find_neighbours(
    tail: fx.GraphModule, entry: str, places: Sequence[str], fit: Features, watch: Watch
) -> tuple[Neighbours, Tensor]:
    """Samples of each class that the suspect answers right, as its layers see them.

    Args:
        tail: of the suspect.
        entry: the place of the cut.
        places: where to look into the tail.
    Returns:
        The samples, and how far from them the watched ones lie, (watched,) fp64.
    Raises:
        AuditError: the tail has no such place.
    """
    device = next(tail.parameters()).device
    ordered = sorted(places)
    look = tapped(tail, entry, ordered)
    right = fit.through(tail, device).argmax(1) == fit.labels
    index, present = _chosen(fit.labels.where(right, -1), watch.num_classes)
    rows = _rows(look, fit.where(index.flatten()), device)
    known = {
        place: values.view(*index.shape, -1) for place, values in zip(ordered, rows, strict=True)
    }
    neighbours = Neighbours.of(known, present.to(device))
    seen = _rows(look, watch.features, device)
    return neighbours, neighbours.distance(seen, watch.answers.to(device)).cpu()


def _rows(look: fx.GraphModule, features: Features, device: torch.device) -> list[Tensor]:
    """At each place, (samples, values)."""
    parts = torch.arange(len(features)).split(_ROWS)
    seen = [look(features.rows(part, device))[1] for part in parts]
    return [torch.cat(each) for each in zip(*seen, strict=True)]


def _chosen(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(classes, samples) indices of some samples of each class, and which of these there are."""
    most = max(min(PER_CLASS, MAX_SAMPLES // num_classes), 1)
    index = torch.zeros(num_classes, most, dtype=torch.int64)
    present = torch.zeros(num_classes, most, dtype=torch.bool)
    for label in range(num_classes):
        members = (labels == label).nonzero().flatten()[:most]
        index[label, : len(members)], present[label, : len(members)] = members, True
    return index, present


def _radii(features: Tensor, present: Tensor) -> Tensor:
    """(classes, samples) of (classes, samples, values); a sample alone in its class has the median
    of all others."""
    apart = torch.stack([(each[:, None] - each).norm(dim=2) for each in features])
    pairs = present[:, :, None] & present[:, None]
    pairs &= ~torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    radii = apart.masked_fill(~pairs, math.nan).nanmedian(2).values
    usual = radii.nanmedian()
    return radii.nan_to_num(nan=float(usual) if usual.isfinite() else 1.0).clamp_min(_LEAST)
