"""What was understood of a suspect, and whether its accuracy on clean data bears that out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from badexpert.errors import CleanSetError
from badexpert.loading.hints import BalancedSample, Hint, class_order_hint, preprocessing_hints
from badexpert.models.origin import Origin
from badexpert.models.outputs import OutputKind, probe_pixels
from badexpert.models.vision import VisionSuspect
from badexpert.preprocessing import Preprocessing
from badexpert.text_reading import TextReading

MAX_P_VALUE = 0.001
"""Accuracy less surprising than this under guessing is near chance."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerCounts:
    """How many layers of each kind a network has."""

    convolutions: int
    linear: int
    normalisations: int
    dropouts: int
    attentions: int


@dataclass(frozen=True)
class AccuracyCheck:
    """How a suspect does on clean labelled data.

    Attributes:
        accuracy: share of right answers, in [0, 1].
        chance: accuracy of guessing, one over the number of classes.
        p_value: probability that guessing does at least as well.
        near_chance: the preprocessing, the labels or the architecture is probably wrong.
        hints: what would do clearly better.
    """

    samples: int
    accuracy: float
    chance: float
    p_value: float
    near_chance: bool
    hints: tuple[Hint, ...]


@dataclass(frozen=True)
class Inspection:
    """What was understood of a suspect.

    Attributes:
        deterministic: the same input gets the same answer twice; else dropout stays on in eval.
        check: None when no clean data was given.
    """

    origin: Origin
    num_classes: int | None
    outputs: OutputKind
    layers: LayerCounts
    preprocessing: Preprocessing | TextReading
    deterministic: bool
    check: AccuracyCheck | None = None


def inspect_suspect(suspect: VisionSuspect, batches: Iterable[Batch] | None = None) -> Inspection:
    """Say what was understood of an image classifier.

    Args:
        batches: clean data as (inputs, labels): pixels (batch, channels, height, width) as the
            suspect takes them, and (batch,) class indices.
    Raises:
        CleanSetError: a label is none of the suspect's classes, or there is no sample.
    """
    return Inspection(
        origin=suspect.origin,
        num_classes=suspect.num_classes,
        outputs=suspect.outputs,
        layers=count_layers(suspect.module),
        preprocessing=suspect.preprocessing,
        deterministic=_is_deterministic(suspect),
        check=None if batches is None else check_accuracy(suspect, batches),
    )


def check_accuracy(suspect: VisionSuspect, batches: Iterable[Batch]) -> AccuracyCheck:
    """Accuracy on clean data, whether it is near chance, and what would do better.

    Raises:
        CleanSetError: a label is none of the suspect's classes, or there is no sample.
    """
    sample = BalancedSample(suspect.num_classes)
    confusion = torch.zeros(suspect.num_classes, suspect.num_classes, dtype=torch.int64)
    for inputs, labels in batches:
        check_range(labels, suspect.num_classes)
        sample.add(inputs, labels)
        confusion += confusion_of(labels, suspect.predict(inputs), suspect.num_classes)
    if not bool(confusion.any()):
        raise CleanSetError("there is no clean sample to check the accuracy on; add some")
    hints = (*preprocessing_hints(suspect, *sample.tensors()), *class_order_hint(confusion))
    return accuracy_of(confusion, hints)


def accuracy_of(confusion: Tensor, hints: tuple[Hint, ...]) -> AccuracyCheck:
    """What a table of true labels by answers, (classes, classes) counts, says."""
    samples, correct = int(confusion.sum()), int(confusion.diagonal().sum())
    chance = 1 / len(confusion)
    p_value = binomial_tail(correct, samples, chance)
    accuracy = correct / samples
    return AccuracyCheck(
        samples=samples,
        accuracy=accuracy,
        chance=chance,
        p_value=p_value,
        near_chance=p_value > MAX_P_VALUE or accuracy < _floor(chance),
        hints=hints,
    )


def _floor(chance: float) -> float:
    """Below this even a significant accuracy is a broken one: twice chance, or 10 points more."""
    return min(2 * chance, chance + 0.1)


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Probability of at least so many successes."""
    k = torch.arange(successes, trials + 1, dtype=torch.float64)
    total = torch.tensor(float(trials), dtype=torch.float64)
    ways = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)
    logs = ways + k * math.log(probability) + (total - k) * math.log1p(-probability)
    return min(float(logs.logsumexp(0).exp()), 1.0)


def count_layers(module: nn.Module) -> LayerCounts:
    """Count the layers of each kind."""
    layers = list(module.modules())
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return LayerCounts(
        convolutions=sum(isinstance(layer, convolutions) for layer in layers),
        linear=sum(isinstance(layer, nn.Linear) for layer in layers),
        normalisations=sum("norm" in _lineage(layer) for layer in layers),
        dropouts=sum(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in layers),
        attentions=sum(type(layer).__name__.lower().endswith("attention") for layer in layers),
    )


def _lineage(layer: nn.Module) -> str:
    """Names of a layer's classes in lower case; timm and torchvision have norms of their own."""
    return " ".join(kind.__name__.lower() for kind in type(layer).__mro__)


def check_range(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that are none of a model's classes."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise CleanSetError(
            f"the clean data has the label {int(labels.max())}, but the model has {num_classes} "
            f"classes, 0 to {num_classes - 1}. Give data of the classes the model was trained on"
        )


def confusion_of(labels: Tensor, answers: Tensor, classes: int) -> Tensor:
    """(classes, classes) counts: true label by answer."""
    pairs = labels.cpu().long() * classes + answers.cpu()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


@torch.no_grad()
def _is_deterministic(suspect: VisionSuspect) -> bool:
    plan = suspect.preprocessing
    pixels = probe_pixels(plan.channels, plan.height, plan.width)[3:5]
    # Kernels may round differently from run to run; dropout differs by far more.
    return torch.allclose(suspect.logits(pixels), suspect.logits(pixels), rtol=1e-3, atol=1e-4)
