"""A planted model is kept with what is true of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from badexpert.attacks import AdapPatch, Attack, BadNet, CleanLabel, Images
from badexpert.attacks.success import measure_success
from badexpert.attacks.truth import GroundTruth, keep, read_attack, read_truth
from badexpert.errors import ModelLoadError
from badexpert.models.origin import digest_file
from badexpert.preprocessing import Preprocessing


def truth_of(attack: Attack | None, name: str | None) -> GroundTruth:
    return GroundTruth(
        attack=name,
        parameters=attack.parameters() if attack is not None else {},
        architecture="timm:resnet18",
        arch_args={"num_classes": 10},
        num_classes=10,
        preprocessing=Preprocessing(8, 8, channels=1, mean=(0.0,), std=(1.0,)),
        seed=3,
        training={"epochs": 2},
        trained=100,
        poisoned=5,
        covers=0,
        tested=50,
        triggered=45,
        clean_accuracy=0.98,
        attack_success_rate=1.0,
    )


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    network, attack = nn.Linear(4, 2), AdapPatch(target=3, seed=5, size=3)
    kept = keep(tmp_path, network, attack, truth_of(attack, "adap-patch"))
    assert read_truth(tmp_path) == kept
    assert read_attack(tmp_path) == attack
    assert torch.equal(load_file(tmp_path / "model.safetensors")["weight"], network.weight.detach())
    assert kept.sha256 == digest_file(tmp_path / "model.safetensors").sha256
    assert not (tmp_path / "trigger.safetensors").exists()


def test_what_was_learned_comes_back_too(tmp_path: Path) -> None:
    learned = {"indices": torch.tensor([4]), "pixels": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}
    attack = CleanLabel(size=2, learned=learned)
    keep(tmp_path, nn.Linear(4, 2), attack, truth_of(attack, "cl"))
    again = read_attack(tmp_path)
    assert again is not None
    assert again.learned.keys() == learned.keys()
    assert torch.equal(again.learned["indices"], learned["indices"])


def test_a_benign_twin_has_no_attack(tmp_path: Path) -> None:
    keep(tmp_path, nn.Linear(4, 2), None, truth_of(None, None))
    assert read_attack(tmp_path) is None
    assert json.loads((tmp_path / "truth.json").read_text())["attack"] is None


def test_tied_weights_can_be_kept(tmp_path: Path) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    network = nn.Sequential(first, second)
    keep(tmp_path, network, None, truth_of(None, None))
    network.load_state_dict(load_file(tmp_path / "model.safetensors"))


def test_a_trigger_that_was_changed_is_refused(tmp_path: Path) -> None:
    attack = CleanLabel(learned={"indices": torch.tensor([4])})
    keep(tmp_path, nn.Linear(4, 2), attack, truth_of(attack, "cl"))
    save_file({"indices": torch.tensor([5])}, tmp_path / "trigger.safetensors")
    with pytest.raises(ModelLoadError, match="is missing or was changed"):
        read_attack(tmp_path)


@pytest.mark.parametrize("text", [None, "", "{}", '{"attack": 3}'])
def test_what_is_no_truth_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "truth.json").write_text(text)
    with pytest.raises(ModelLoadError, match="is no ground truth"):
        read_truth(tmp_path)


class Says(nn.Module):
    """Class 2 where the lower right pixel is white, else class 1."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        white = pixels[:, 0, -1, -1] == 1
        return nn.functional.one_hot(1 + white.long(), 3).float()


def test_success_counts_what_the_attack_counts() -> None:
    pixels = torch.zeros(600, 1, 4, 4, dtype=torch.uint8)
    images = Images(pixels, torch.arange(600) % 3, 3)
    hit = measure_success(Says(), BadNet(target=2, size=1), images, torch.device("cpu"))
    assert (hit.clean_accuracy, hit.attack_success_rate) == (pytest.approx(1 / 3), 1)
    assert (hit.tested, hit.triggered) == (600, 400)
    miss = measure_success(Says(), BadNet(target=0, size=1), images, torch.device("cpu"))
    assert miss.attack_success_rate == 0
    assert measure_success(Says(), None, images, torch.device("cpu")).attack_success_rate is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("attack", "badnot", "badnot"), ("parameters", {"sise": 3}, "sise")],
)
def test_a_truth_that_names_what_is_unknown_is_refused(
    tmp_path: Path, key: str, value: object, said: str
) -> None:
    attack = BadNet()
    keep(tmp_path, nn.Linear(4, 2), attack, truth_of(attack, "badnet"))
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ModelLoadError, match=said):
        read_attack(tmp_path)
