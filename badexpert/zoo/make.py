"""One model of a zoo: built, trained, attacked, tested, kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import torch

from badexpert.attacks.truth import GroundTruth, keep
from badexpert.errors import AttackError, ModelLoadError
from badexpert.findings import Json
from badexpert.loading import PreprocessingOverrides
from badexpert.loading.untrained import untrained_suspect
from badexpert.models.vision import VisionSuspect
from badexpert.redteam import plant_and_test
from badexpert.runtime import Progress, RunContext
from badexpert.zoo.entries import Entry
from badexpert.zoo.folder import new_model
from badexpert.zoo.images import read_images


@dataclass(frozen=True)
class Order:
    """A model to be made.

    Attributes:
        settings: of the entry, as ``make_model`` takes them.
        folder: of the model.
    """

    entry: Entry
    settings: dict[str, Json]
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of an order.

    Attributes:
        truth: None if the model could not be made.
        reason: why not; empty otherwise.
        seconds: that it took.
    """

    entry: Entry
    truth: GroundTruth | None
    reason: str
    seconds: float


def make_ordered(order: Order, device: torch.device, progress: Progress) -> Outcome:
    """Make a model, or say why it cannot be made."""
    context = RunContext(device, order.entry.seed, progress)
    start = perf_counter()
    truth, reason = None, ""
    try:
        truth = make_model(order.entry, order.settings, order.folder, context)
    except (AttackError, ModelLoadError) as error:
        reason = str(error)
    return Outcome(order.entry, truth, reason, perf_counter() - start)


def make_model(
    entry: Entry, settings: Mapping[str, Json], folder: Path, context: RunContext
) -> GroundTruth:
    """Make a model and put it in its place.

    Args:
        settings: of the entry.
        folder: of the model; an older model there is replaced.
        context: its seed is the entry's.
    Raises:
        AttackError: the attack cannot be carried out on this network with these images.
        ModelLoadError: the network cannot be built.
    """
    images = read_images(entry.spec, entry.data)
    suspect = _untrained(entry, images.train.num_classes, context)
    planted, truth = plant_and_test(
        suspect,
        images.train,
        images.test,
        entry.planted,
        training=entry.training,
        context=context,
        rate=entry.rate,
    )
    with new_model(folder, settings) as partial:
        return keep(partial, suspect.module, planted.attack, truth)


def _untrained(entry: Entry, num_classes: int, context: RunContext) -> VisionSuspect:
    with context.seeded("initial weights"):
        suspect = untrained_suspect(
            entry.network.arch,
            num_classes=num_classes,
            arch_args=entry.network.arch_args,
            preprocessing=PreprocessingOverrides(**asdict(entry.spec.preprocessing)),
        )
    return suspect.to(context.device)
