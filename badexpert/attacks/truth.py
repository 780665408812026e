"""What is true of a planted model, and a folder that keeps it beside the model.

A folder holds ``model.safetensors``, ``truth.json``, and ``trigger.safetensors`` where the attack
learned its trigger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from badexpert.attacks import Attack, make_attack
from badexpert.errors import ConfigError, ModelLoadError
from badexpert.findings import Json
from badexpert.models.origin import digest_file
from badexpert.preprocessing import Preprocessing

MODEL, TRIGGER, TRUTH = "model.safetensors", "trigger.safetensors", "truth.json"


@dataclass(frozen=True)
class GroundTruth:
    """All that is known of a model that was made on purpose.

    Attributes:
        attack: key in ``ATTACKS``; None for a benign twin.
        parameters: of the attack, its target and the seed of its trigger among them.
        architecture: such as ``timm:resnet18``.
        arch_args: what the network was built with.
        num_classes: of the model.
        preprocessing: of the model.
        seed: of the training.
        training: settings of the training.
        trained: training images.
        poisoned: those with the trigger and the attacker's label.
        covers: those with the trigger or its like and their true label.
        tested: test images.
        triggered: test images that count towards the attack success rate.
        clean_accuracy: on the test images.
        attack_success_rate: see ``Success``.
        sha256: of ``model.safetensors``; empty until it is written.
        trigger_sha256: of ``trigger.safetensors``; empty where there is none.
    """

    attack: str | None
    parameters: Mapping[str, Json]
    architecture: str
    arch_args: Mapping[str, Json]
    num_classes: int
    preprocessing: Preprocessing
    seed: int
    training: Mapping[str, Json]
    trained: int
    poisoned: int
    covers: int
    tested: int
    triggered: int
    clean_accuracy: float
    attack_success_rate: float | None
    sha256: str = ""
    trigger_sha256: str = ""

    def to_json(self) -> dict[str, Json]:
        """Plain data."""
        return asdict(self)


def keep(folder: Path, module: nn.Module, attack: Attack | None, truth: GroundTruth) -> GroundTruth:
    """Write a planted model into a folder that is there.

    Args:
        module: whose weights are kept, under its own names.
        attack: whose ``learned`` is kept.
    Returns:
        The truth with the digests of what was written.
    """
    _save(module.state_dict(), folder / MODEL)
    truth = replace(truth, sha256=digest_file(folder / MODEL).sha256)
    if attack is not None and attack.learned:
        _save(attack.learned, folder / TRIGGER)
        truth = replace(truth, trigger_sha256=digest_file(folder / TRIGGER).sha256)
    document = json.dumps(truth.to_json(), indent=2)
    (folder / TRUTH).write_text(document + "\n", encoding="utf-8")
    return truth


def read_truth(folder: Path) -> GroundTruth:
    """The ground truth of a model that ``keep`` wrote.

    Raises:
        ModelLoadError: it is missing or damaged.
    """
    path = folder / TRUTH
    try:
        return TypeAdapter(GroundTruth).validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ModelLoadError(
            f"{path} is no ground truth: {error}. Plant the model again"
        ) from error


def read_attack(folder: Path) -> Attack | None:
    """The attack of a model that ``keep`` wrote, ready to stamp; None for a benign twin.

    Raises:
        ModelLoadError: the truth or the trigger is missing, damaged, or not of this model.
    """
    truth = read_truth(folder)
    if truth.attack is None:
        return None
    learned: dict[str, Tensor] = {}
    if truth.trigger_sha256:
        path = folder / TRIGGER
        if not path.is_file() or digest_file(path).sha256 != truth.trigger_sha256:
            raise ModelLoadError(f"{path} is missing or was changed. Plant the model again")
        learned = load_file(path)
    try:
        attack = make_attack(truth.attack, truth.parameters)
    except ConfigError as error:
        raise ModelLoadError(f"{folder / TRUTH}: {error}. Plant the model again") from error
    return replace(attack, learned=learned)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Tied weights are written once for each name, as safetensors wants it."""
    save_file(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path
    )
