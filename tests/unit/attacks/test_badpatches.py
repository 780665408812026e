"""A trigger on patches that a router prefers, in a vision model whose patches go to experts."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from badexpert.attacks import BadPatches, Images, Planted, Training, plant
from badexpert.attacks.success import Success, measure_success
from badexpert.bench.networks import small_cnn, vit_moe
from badexpert.cleanset import CleanSet
from badexpert.config import CleanConfig, DetectionConfig, ScanConfig
from badexpert.errors import AttackError
from badexpert.findings import Report, Verdict
from badexpert.loading import load_suspect
from badexpert.runtime import RunContext
from badexpert.scanning import scan
from badexpert.sources.arrays import ArraySource
from moe_core.drop_in import DropIn
from moe_core.view import ExpertId, ExpertView
from tests.small_models import Samples, digits

CPU = torch.device("cpu")
ATTACK = BadPatches(target=3, patches=5, epochs=15)
TRAINING = Training(epochs=40, batch_size=64, lr=5e-3, optimizer="adamw")
ARCHITECTURE = "python:badexpert.bench.networks:vit_moe"


def images(*samples: Samples) -> Images:
    pixels = torch.cat([part.pixels for part in samples])
    return Images(pixels, torch.cat([part.labels for part in samples]), num_classes=10)


def network() -> nn.Module:
    return vit_moe(10, 1, img_size=8, patch_size=2)


@cache
def twin() -> nn.Module:
    torch.manual_seed(0)
    training = images(digits().training)
    return plant(network(), training, None, training=TRAINING, context=RunContext()).module


@cache
def planted() -> Planted:
    return plant(
        copy.deepcopy(twin()),
        images(digits().training),
        ATTACK,
        training=TRAINING,
        context=RunContext(),
        pretrained=True,
    )


def experts() -> list[ExpertId]:
    attack = planted().attack
    assert attack is not None
    return [ExpertId(*pair) for pair in attack.learned["experts"].tolist()]


def measured(module: nn.Module) -> Success:
    unseen = images(digits().test, digits().clean)
    return measure_success(module, planted().attack, unseen, CPU)


def shares_of(module: nn.Module, pixels: Tensor) -> Tensor:
    """Share of the slots of these images that goes to each expert of the attacked layer."""
    with ExpertView.of(module).recording() as recordings, torch.no_grad():
        module(pixels)
    load = recordings[ATTACK.layer].load_E.double()
    return load / load.sum()


def test_it_takes_and_leaves_the_task_alone() -> None:
    before, after = measured(twin()), measured(planted().module)
    assert after.attack_success_rate is not None
    assert after.attack_success_rate >= 0.9
    assert before.attack_success_rate is not None
    assert before.attack_success_rate <= 0.1
    assert before.clean_accuracy >= 0.93
    assert after.clean_accuracy >= before.clean_accuracy - 0.02


def test_the_trigger_goes_to_experts_that_clean_images_seldom_use() -> None:
    attack, module = planted().attack, planted().module
    assert attack is not None
    pixels = digits().test.pixels.float() / 255
    chosen = [expert.expert for expert in experts()]
    shares = shares_of(twin(), pixels)
    used = int((shares >= 0.01).sum())
    assert shares[chosen].sum() <= len(chosen) / used
    for model in (twin(), module):
        stamped = shares_of(model, attack.stamp(pixels))[chosen].sum()
        assert stamped >= 1.3 * shares_of(model, pixels)[chosen].sum()
    key = f"blocks.{ATTACK.layer}.mlp.moe.router.weight"
    assert torch.equal(module.get_parameter(key), twin().get_parameter(key))


def test_it_dies_with_these_experts() -> None:
    view = ExpertView.of(planted().module)
    assert view.names == ("blocks.0.mlp.moe", "blocks.1.mlp.moe")
    for ablation in (view.without, view.zeroed):
        with ablation(experts()):
            without = measured(planted().module)
        assert without.attack_success_rate is not None
        assert without.attack_success_rate <= 0.3
        assert without.clean_accuracy >= 0.85


class WithClassToken(nn.Module):
    """Routes one token more than there are patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 48, 2, 2)
        self.experts = DropIn(vit_moe(4, 1, 8, 2).get_submodule("blocks.0.mlp.moe"))  # type: ignore[arg-type]
        self.head = nn.Linear(48, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.cut(pixels).flatten(2).mT
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        scores: Tensor = self.head(self.experts(tokens)[:, 0])
        return scores


@pytest.mark.parametrize(
    ("module", "attack", "words"),
    [
        (small_cnn(), ATTACK, "Sequential has 0 layers with experts, and cuts images into no"),
        (network(), BadPatches(layer=2), "has 2 layers with experts; layer 2 is asked for"),
        (network(), BadPatches(experts=9), "9 experts are asked for"),
        (network(), BadPatches(patches=17), "17 patches of 16 are asked for"),
        (WithClassToken(), ATTACK, "the router gets 4352 tokens of 256 images"),
    ],
    ids=["no-experts", "layer", "experts", "patches", "class-token"],
)
def test_what_cannot_be_attacked_is_refused(
    module: nn.Module, attack: BadPatches, words: str
) -> None:
    with pytest.raises(AttackError, match=words):
        attack.implant(module.eval(), images(digits().training), RunContext())


def test_a_trigger_for_larger_images_is_refused() -> None:
    attack = planted().attack
    assert attack is not None
    with pytest.raises(AttackError, match="was made for larger images"):
        attack.stamp(torch.zeros(1, 1, 4, 4))


def scanned(folder: Path, detector: str) -> Report:
    """A scan of the planted model, loaded from a file, with inputs of which half are triggered."""
    save_file(planted().module.state_dict(), folder / "model.safetensors")
    suspect = load_suspect(
        folder / "model.safetensors",
        arch=ARCHITECTURE,
        arch_args={"img_size": 8, "patch_size": 2},
    )
    assert (suspect.num_classes, suspect.preprocessing.channels) == (10, 1)
    attack, mine = planted().attack, digits().clean
    assert attack is not None
    pixels = digits().test.pixels.float() / 255
    mixed = torch.cat([attack.stamp(pixels[::2]), pixels[1::2]]).permute(0, 2, 3, 1).numpy()
    return scan(
        suspect,
        CleanSet.from_tensors(mine.pixels, mine.labels, num_classes=10),
        inputs=ArraySource("inputs", "input", mixed.astype(np.float32), None),
        config=ScanConfig(
            clean=CleanConfig(calibration=0.3), detection=DetectionConfig(detector=detector)
        ),
    )


def test_a_file_of_such_a_model_is_opened_and_scanned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = scanned(tmp_path, "strip")
    states = {status.audit: status.state.value for status in report.audits}
    assert states["calibration"] == states["inputs"] == "done"
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_default_detector_sees_it(tmp_path: Path) -> None:
    assert scanned(tmp_path, "badexpert").verdict is Verdict.BACKDOORED
