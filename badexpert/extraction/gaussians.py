"""How unlike the clean samples of its answer an input is, in the suspect's own layers.

Tuned copies see a backdoor by what they forget. This sees it by the way that the suspect takes: a
triggered input ends at an answer whose clean samples it was never like. The two fail on different
attacks; layers are looked into on the pass that gives the suspect's answer, at no further one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, fx

from badexpert.extraction.features import Features
from badexpert.extraction.watch import Watch
from badexpert.taps import tapped

LAST = "last"
LAYERS = "layers"
"""The two parts: the last layer alone, from which the answer is made, and the mean of all."""

MOST = 5000
"""Clean samples that are looked at, so that memory stays bounded."""

PRIOR = 3
"""Samples of the usual spread that each class counts as having beside its own."""

_LEAST = 1e-9
"""Of the greatest variance, what any direction has at least."""

_ROWS = 256


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Clean samples at one place: one shape for all classes, a centre and a size for each.

    Attributes:
        means: (classes, values) fp32.
        whitening: (values, values) fp32; what differs from the means has unit variance behind it.
        spreads: (classes,) fp32, how far from its mean an input of a class may be expected, beside
            the usual; not a number where there are no samples.
    Source: the distance is that of Lee et al., "A simple unified framework for detecting
        out-of-distribution samples and adversarial attacks", NeurIPS 2018, arXiv:1807.03888. The
        covariance is shrunk after Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004.
    Departs: from the mean of the answer, not of the nearest class; each class has a size, drawn to
        the usual one; a mean of few samples is uncertain, which widens its class.
    """

    means: Tensor
    whitening: Tensor
    spreads: Tensor

    @classmethod
    def of(cls, rows: Tensor, labels: Tensor, num_classes: int) -> Self:
        """Fit (samples, values) and their (samples,) classes, on the CPU."""
        rows = rows.double()
        counts = labels.bincount(minlength=num_classes)
        sums = rows.new_zeros(num_classes, rows.shape[1]).index_add(0, labels, rows)
        means = sums / counts.clamp_min(1)[:, None]
        apart = rows - means[labels]
        whitening = _whitening(apart, int((counts > 0).sum()))
        squares = (apart @ whitening).square().mean(1)
        total = rows.new_zeros(num_classes).index_add(0, labels, squares)
        variances = (total + PRIOR) / ((counts - 1).clamp_min(0) + PRIOR) * (1 + 1 / counts)
        return cls(means.float(), whitening.float(), variances.sqrt().float())

    def distance(self, rows: Tensor, answers: Tensor) -> Tensor:
        """Of (batch, values) from the samples of their (batch,) answers.

        Returns:
            (batch,) fp64, about 1 for clean inputs, and 1 where the answer has no samples.
        """
        apart = (rows - self.means[answers]) @ self.whitening
        spreads = self.spreads[answers].double()
        known = spreads.isfinite()
        lengths = apart.double().square().mean(1).sqrt()
        return torch.where(known, lengths / spreads.where(known, 1.0), 1.0)


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Clean samples as the suspect's layers see them.

    Attributes:
        places: where they were looked at, in the order of the network.
    """

    places: Mapping[str, Gaussian]

    def distances(self, rows: Sequence[Tensor], answers: Tensor) -> dict[str, Tensor]:
        """How unlike the samples of their answer inputs are.

        A layer counts at most as much as the last: an oddity that the network has dealt with by
        then, such as a sticker that means nothing to it, is none.

        Args:
            rows: at each place, (batch, values).
            answers: of the suspect, (batch,).
        Returns:
            By part, (batch,) fp64, higher = more unlike.
        """
        found = [
            gaussian.distance(values, answers)
            for gaussian, values in zip(self.places.values(), rows, strict=True)
        ]
        last = found[-1]
        return {LAST: last, LAYERS: torch.stack(found).minimum(last).mean(0)}

    def state(self) -> dict[str, Tensor]:
        """Tensors that ``from_state`` takes back."""
        return {
            f"{number:03}.{place}.{name}": tensor
            for number, (place, gaussian) in enumerate(self.places.items())
            for name, tensor in vars(gaussian).items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """What ``state`` returned.

        Raises:
            RuntimeError: tensors are missing.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in sorted(state.items()):
            place, name = key.split(".", 1)[1].rsplit(".", 1)
            found.setdefault(place, {})[name] = tensor
        try:
            return cls({place: Gaussian(**tensors) for place, tensors in found.items()})
        except TypeError as error:
            raise RuntimeError(f"tensors of the suspect's layers are missing: {error}") from error


@torch.no_grad()
def find_gaussians(
    tail: fx.GraphModule, entry: str, places: Sequence[str], fit: Features, watch: Watch
) -> tuple[Gaussians, dict[str, Tensor]]:
    """Samples that the suspect answers right, as its layers see them.

    Args:
        tail: of the suspect.
        entry: the place of the cut.
        places: where to look into the tail, in the order of the network.
    Returns:
        The samples, and how unlike them the watched ones are, by part, (watched,) fp64.
    Raises:
        AuditError: the tail has no such place.
    """
    device = next(tail.parameters()).device
    look = tapped(tail, entry, places)
    right = (fit.through(tail, device).argmax(1) == fit.labels).nonzero().flatten()[:MOST]
    known = fit.where(right)
    gaussians = Gaussians(
        {
            place: _on(Gaussian.of(values.cpu(), known.labels, watch.num_classes), device)
            for place, values in zip(places, _rows(look, known, device), strict=True)
        }
    )
    seen = gaussians.distances(_rows(look, watch.features, device), watch.answers.to(device))
    return gaussians, {part: distances.cpu() for part, distances in seen.items()}


def _rows(look: fx.GraphModule, features: Features, device: torch.device) -> list[Tensor]:
    """At each place, (samples, values)."""
    parts = torch.arange(len(features)).split(_ROWS)
    seen = [look(features.rows(part, device))[1] for part in parts]
    return [torch.cat(each) for each in zip(*seen, strict=True)]


def _whitening(apart: Tensor, num_means: int) -> Tensor:
    """(values, values) of the covariance of (samples, values), which ``num_means`` were taken
    from."""
    shrunk, _ = ledoit_wolf(apart.numpy(), assume_centered=True)
    variances, directions = torch.linalg.eigh(torch.from_numpy(shrunk))
    variances = variances * (len(apart) / max(len(apart) - num_means, 1))
    least = max(float(variances[-1]) * _LEAST, torch.finfo(torch.float32).tiny)
    whitening: Tensor = directions / variances.clamp_min(least).sqrt()
    return whitening


def _on(gaussian: Gaussian, device: torch.device) -> Gaussian:
    return Gaussian(**{name: tensor.to(device) for name, tensor in vars(gaussian).items()})
