"""TED++: on its way through the layers, a triggered input comes late to the class it ends in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from badexpert.cleanset import CleanSet
from badexpert.detectors.base import Fitted, PixelDetector
from badexpert.detectors.layers import seeing
from badexpert.errors import AuditError
from badexpert.extraction import Views
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext
from badexpert.taps import as_rows

PER_CLASS = 20
"""Clean samples of each class to compare with; TED's m."""

MAX_BANK = 2000
"""Samples to compare with altogether, so that memory stays bounded with many classes."""

NEIGHBOURS = 0.5
"""Share of the class that the tube around a sample must hold; alpha in the authors' code."""

COMPONENTS = 2
"""Of the principal component analysis, in the authors' code."""

VALUES = 2048
"""An output of more values is averaged over its positions down to at most so many."""

_ROWS = 64


class TEDPlusPlus(PixelDetector):
    """How odd an input's ranks are: in each layer, how many clean samples lie nearer to it than the
    nearest one that has its answer. A sample too far from that neighbour gets the last rank.

    Source: Le et al., ICDM 2025, arXiv:2510.14299; Mo et al., S&P 2024, arXiv:2312.02673.
    Departs: large feature maps are averaged over positions before distances are taken, to bound the
        memory; the neighbours of a sample of a class with no other have no radius.
    """

    name: ClassVar[str] = "tedpp"

    @classmethod
    @torch.inference_mode()
    def learn(cls, suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> Fitted:
        """Keep features of clean samples that are answered right, and how their own ranks vary.

        Raises:
            AuditError: no layer can be looked into, or nothing is answered right.
        """
        pixels, answers = _bank(suspect, clean, context)
        features = _features_of_all(suspect, pixels)
        radii = {layer: _radii(rows, answers) for layer, rows in features.items()}
        own = [
            ranks(rows, answers, rows, answers, radii[layer], apart=True)
            for layer, rows in features.items()
        ]
        return Fitted(
            {
                "answers": answers,
                **{f"features.{layer}": rows for layer, rows in features.items()},
                **{f"radii.{layer}": values for layer, values in radii.items()},
                **_principal(torch.stack(own, 1)),
            }
        )

    def combine(self, views: Views) -> Tensor:
        answers = self.fitted("answers")
        found = features_of(self.suspect, views.inputs)
        columns = [
            ranks(
                rows,
                views.answers,
                self.fitted(f"features.{layer}"),
                answers,
                self.fitted(f"radii.{layer}"),
            )
            for layer, rows in found.items()
            if f"features.{layer}" in self.bundle.fitted[self.name]
        ]
        scaled = (torch.stack(columns, 1) - self.fitted("mean")) / self.fitted("deviation")
        distances = torch.cdist(scaled, self.fitted("components"))
        return (distances / self.fitted("shares")).sum(1)


def ranks(
    features: Tensor,
    answers: Tensor,
    bank: Tensor,
    bank_answers: Tensor,
    radii: Tensor,
    *,
    apart: bool = False,
) -> Tensor:
    """How many samples of the bank lie nearer than the nearest one with the same answer.

    Args:
        features: of inputs at one layer, (batch, values).
        answers: to the inputs, (batch,).
        bank: of clean samples at the layer, (samples, values).
        bank_answers: to these, (samples,).
        radii: of the tube around each of these, (samples,).
        apart: the inputs are the bank itself, and none is its own neighbour.
    Returns:
        (batch,) fp64; the last rank, samples - 1, for an input outside of the tube around its
        neighbour, or without one.
    """
    # Matrix multiplication would be quicker, and would round otherwise in a batch of another size.
    distances = torch.cdist(features, bank, compute_mode="donot_use_mm_for_euclid_dist")
    if apart:
        distances.fill_diagonal_(math.inf)
    same = answers[:, None] == bank_answers
    nearest, neighbour = distances.where(same, math.inf).min(1)
    rank = (distances < nearest[:, None]).sum(1)
    outside = (nearest > radii[neighbour]) | nearest.isinf()
    return torch.where(outside, len(bank) - 1, rank).double()


def features_of(suspect: VisionSuspect, pixels: Tensor) -> dict[str, Tensor]:
    """What the suspect's layers make of pixels, (batch, at most about ``VALUES``) each."""
    found: dict[str, Tensor] = {}

    def see(place: str, output: Tensor) -> None:
        if len(output) == len(pixels) and output.ndim in (2, 3, 4):
            found[place] = as_rows(output, VALUES)

    with seeing(_layers(suspect.network), see):
        suspect.logits(pixels)
    return found


def _layers(network: nn.Module) -> Mapping[str, nn.Module]:
    """The layers that the authors' code looks into: convolutions but 1x1, ReLU, linear."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.ReLU | nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1))
    }


def _features_of_all(suspect: VisionSuspect, pixels: Tensor) -> dict[str, Tensor]:
    parts = [features_of(suspect, suspect.pixels(rows)) for rows in pixels.split(_ROWS)]
    if not parts[0]:
        raise AuditError(
            "tedpp compares outputs of convolutions, ReLU and linear layers, and this model has "
            "none. Choose another detector, such as detection.detector = 'badexpert'"
        )
    return {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]}


def _bank(suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> tuple[Tensor, Tensor]:
    """Some samples of each class that are answered right: pixels, and the answers."""
    pixels, labels = clean.tensors()
    order = torch.randperm(len(labels), generator=context.generator(TEDPlusPlus.name))
    pixels, labels = pixels[order], labels[order]
    right = torch.cat([suspect.predict(rows).cpu() for rows in pixels.split(_ROWS)]) == labels
    most = max(min(PER_CLASS, MAX_BANK // clean.num_classes), 1)
    chosen = torch.cat(
        [
            (right & (labels == label)).nonzero().flatten()[:most]
            for label in range(clean.num_classes)
        ]
    )
    if not len(chosen):
        raise AuditError(
            "tedpp compares with clean samples that the suspect gets right, and it gets none "
            "right. Check preprocessing and labels with 'badexpert inspect'"
        )
    return pixels[chosen], labels[chosen].to(suspect.device)


def _radii(features: Tensor, answers: Tensor) -> Tensor:
    """Radius of the tube around each sample, (samples,): it holds half of the others of its class.

    Infinite where there is no other.
    """
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same = (answers[:, None] == answers).fill_diagonal_(False)
    ordered = distances.where(same, math.inf).sort(1).values
    others = same.sum(1)
    held = ((others + 1) * NEIGHBOURS).ceil().long().minimum(others).clamp(min=1)
    return ordered.gather(1, held[:, None] - 1).squeeze(1)


def _principal(ranks: Tensor) -> dict[str, Tensor]:
    """What is needed to see how far (samples, layers) ranks are from usual ones.

    The outlier score is that of PyOD, which the authors use: distances of the standardised ranks to
    the principal directions, each divided by the share of the variance along it.
    """
    mean, deviation = ranks.mean(0), ranks.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    scaled = (ranks - mean) / deviation
    variances, directions = torch.linalg.eigh(scaled.T @ scaled)
    components = directions.T.flip(0)[:COMPONENTS]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    shares = (variances / variances.sum().clamp(min=1e-12)).flip(0)[:COMPONENTS].clamp(min=1e-12)
    return {
        "mean": mean,
        "deviation": deviation,
        "components": components * largest.sign(),
        "shares": shares,
    }
