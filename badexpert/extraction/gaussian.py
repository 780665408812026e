"""How unlike the clean samples of its answer an input is, where the suspect makes its answer.

Tuned copies see a backdoor by what they forget. This sees it by what the suspect answers from: a
trigger leads to the answer in another way than what belongs there. The two fail on different
attacks. What the last layer takes is read on the pass that gives the answer, at no further one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, fx, nn

from badexpert.extraction.features import Features
from badexpert.extraction.watch import Watch
from badexpert.models.text_networks import LastTokenNetwork, StateReader
from badexpert.taps import tapped

MOST = 5000
"""Clean samples that are looked at, so that memory stays bounded."""

PRIOR = 3
"""Samples of the usual spread that each class counts as having beside its own."""

_LEAST = 1e-9
"""Of the greatest variance, what any direction has at least."""

_ROWS = 256

TEXT_PLACES = ("head",)
"""Stands for the state of the last token, of which a language model's head makes its answer."""

_AND = "+"
"""Between names of places, none of which has it."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Clean samples as the last layer takes them: one shape for all, a centre and a size a class.

    Attributes:
        places: where they were looked at, see ``NetworkGraph.last_places``; ``TEXT_PLACES`` of a
            language model.
        means: (classes, values) fp32.
        whitening: (values, values) fp32; what differs from the means has unit variance behind it.
        spreads: (classes,) fp32, how far from its mean an input of a class may be expected, beside
            the usual; infinite where there are no samples.
    Source: the distance is that of Lee et al., "A simple unified framework for detecting
        out-of-distribution samples and adversarial attacks", NeurIPS 2018, arXiv:1807.03888. The
        covariance is shrunk after Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004.
    Departs: from the mean of the answer, not of the nearest class; each class has a size, drawn to
        the usual one; a mean of few samples is uncertain, which widens its class.
    """

    places: tuple[str, ...]
    means: Tensor
    whitening: Tensor
    spreads: Tensor

    @classmethod
    def of(cls, places: tuple[str, ...], rows: Tensor, labels: Tensor, num_classes: int) -> Self:
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
        return cls(places, means.float(), whitening.float(), variances.sqrt().float())

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

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(
            self,
            means=self.means.to(device),
            whitening=self.whitening.to(device),
            spreads=self.spreads.to(device),
        )

    def state(self) -> dict[str, Tensor]:
        """Tensors that ``from_state`` takes back."""
        tensors = {"means": self.means, "whitening": self.whitening, "spreads": self.spreads}
        prefix = _AND.join(self.places)
        return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """What ``state`` returned.

        Raises:
            RuntimeError: tensors are missing.
        """
        prefix = next(iter(state), "").rpartition(".")[0]
        try:
            return cls(
                tuple(prefix.split(_AND)),
                *(state[f"{prefix}.{name}"] for name in ("means", "whitening", "spreads")),
            )
        except KeyError as error:
            raise RuntimeError(f"of the samples to compare with, {error} is missing") from error


@torch.no_grad()
def find_gaussian(
    tail: nn.Module, entry: str, places: tuple[str, ...], fit: Features, watch: Watch
) -> tuple[Gaussian, Tensor]:
    """Samples that the suspect answers right.

    Args:
        tail: of the suspect.
        entry: the place of the cut.
        places: where to look.
    Returns:
        The samples, and how unlike them the watched ones are, (watched,) fp64.
    Raises:
        AuditError: the tail has no such place.
    """
    device = next(tail.parameters()).device
    look = with_rows(tail, entry, places)
    right = (fit.through(tail, device).argmax(1) == fit.labels).nonzero().flatten()[:MOST]
    known = fit.where(right)
    rows = _rows(look, known, device).cpu()
    gaussian = Gaussian.of(places, rows, known.labels, watch.num_classes).to(device)
    seen = _rows(look, watch.features, device)
    return gaussian, gaussian.distance(seen, watch.answers.to(device)).cpu()


def with_rows(tail: nn.Module, entry: str, places: tuple[str, ...]) -> nn.Module:
    """A suspect's tail that also returns what is at some places: features -> (scores, rows).

    Raises:
        AuditError: it has no such place.
    """
    if isinstance(tail, LastTokenNetwork):
        return StateReader(tail)
    return tapped(cast(fx.GraphModule, tail), entry, places)


def _rows(look: nn.Module, features: Features, device: torch.device) -> Tensor:
    """(samples, values) at the places."""
    parts = torch.arange(len(features)).split(_ROWS)
    return torch.cat([look(features.rows(part, device))[1] for part in parts])


def _whitening(apart: Tensor, num_means: int) -> Tensor:
    """(values, values) of the covariance of (samples, values), which ``num_means`` were taken
    from."""
    shrunk, _ = ledoit_wolf(apart.numpy(), assume_centered=True)
    variances, directions = torch.linalg.eigh(torch.from_numpy(shrunk))
    variances = variances * (len(apart) / max(len(apart) - num_means, 1))
    least = max(float(variances[-1]) * _LEAST, torch.finfo(torch.float32).tiny)
    whitening: Tensor = directions / variances.clamp_min(least).sqrt()
    return whitening
