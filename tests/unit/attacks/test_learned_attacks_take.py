"""Attacks that train a helper or act on a trained model work, and leave the task alone.

All on digits of 16x16, the attacks on models on copies of one benign network.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from badexpert.attacks import (
    FT,
    ISSBA,
    SRA,
    Adaptive,
    Attack,
    Dynamic,
    Images,
    ModelAttack,
    Natural,
    Planted,
    Training,
    TrojanNN,
    plant,
)
from badexpert.attacks.blend import generated_picture
from badexpert.attacks.patterns import apply_masked
from badexpert.attacks.success import Success, measure_success
from badexpert.bench.networks import small_cnn
from badexpert.cleanset import CleanSet
from badexpert.detectors import BaDExpert
from badexpert.extraction import extract
from badexpert.extraction.comparison import EXPERTS
from badexpert.models.origin import digest_module
from badexpert.models.vision import VisionSuspect
from badexpert.preprocessing import Preprocessing
from badexpert.runtime import RunContext
from tests.small_models import Samples, auroc, digits

SIDE = 16
TRAINING = Training(epochs=15, batch_size=64)
CPU = torch.device("cpu")


def part(samples: Samples) -> Images:
    pixels = interpolate(samples.pixels.float(), size=(SIDE, SIDE), mode="bilinear")
    return Images(pixels.round().byte(), samples.labels, num_classes=10)


def planted(network: nn.Module, attack: Attack | None, *, pretrained: bool = False) -> Planted:
    return plant(
        network,
        part(digits().training),
        attack,
        rate=0.2,
        training=TRAINING,
        context=RunContext(),
        pretrained=pretrained,
    )


@cache
def benign() -> nn.Module:
    torch.manual_seed(0)
    return planted(small_cnn(), None).module


@cache
def poisoned(attack: Attack) -> Planted:
    torch.manual_seed(0)
    return planted(small_cnn(), attack)


@cache
def implanted(attack: ModelAttack) -> Planted:
    return planted(copy.deepcopy(benign()), attack, pretrained=True)


def success_of(module: nn.Module, attack: Attack | None) -> Success:
    return measure_success(module, attack, part(digits().test), CPU)


def hits(module: nn.Module, attack: Attack | None) -> float:
    rate = success_of(module, attack).attack_success_rate
    assert rate is not None
    return rate


DYNAMIC = Dynamic(target=3, steps=300)
SECRET = ISSBA(target=3, steps=450)


@pytest.mark.parametrize("attack", [DYNAMIC, SECRET], ids=["dynamic", "issba"])
def test_a_trained_trigger_poisons(attack: Attack) -> None:
    model = poisoned(attack)
    assert hits(model.module, model.attack) >= 0.9
    assert success_of(model.module, None).clean_accuracy >= 0.95
    assert hits(benign(), model.attack) <= 0.1


IMPLANTED = [
    FT(target=3, epochs=5),
    TrojanNN(target=3, steps=100),
    SRA(target=3, steps=200),
    Adaptive(target=3, epochs=5, rounds=0),
]


@pytest.mark.parametrize("attack", IMPLANTED, ids=lambda attack: type(attack).__name__)
def test_an_attack_on_a_trained_model_takes(attack: ModelAttack) -> None:
    before = digest_module(benign())
    model = implanted(attack)
    assert hits(model.module, model.attack) >= 0.9
    # Two of the sixteen channels of the first layer are the price of a subnet.
    kept = 0.9 if isinstance(attack, SRA) else 0.95
    assert success_of(model.module, None).clean_accuracy >= kept
    assert hits(benign(), model.attack) <= 0.1
    assert digest_module(benign()) == before


def test_a_natural_trigger_works_on_the_untouched_model() -> None:
    model = implanted(Natural(target=3, steps=200))
    assert digest_module(model.module) == digest_module(benign())
    assert hits(model.module, model.attack) >= 0.9


def test_dynamic_triggers_belong_to_their_image() -> None:
    model = poisoned(DYNAMIC)
    assert isinstance(model.attack, Dynamic)
    images = part(digits().test)
    others = images.labels != 3
    pixels, labels = images.pixels[others].float() / 255, images.labels[others]
    pattern, mask = model.attack.trigger(pixels)
    assert mask.mean() <= 1.2 * DYNAMIC.density
    borrowed = apply_masked(pixels, pattern.roll(1, 0), mask.roll(1, 0))
    with torch.no_grad():
        answers = model.module(borrowed).argmax(1)
    assert (answers == labels).float().mean() >= 0.7


def test_a_decoder_reads_issbas_secret_in_stamped_images_only() -> None:
    model = poisoned(SECRET)
    assert isinstance(model.attack, ISSBA)
    pixels = part(digits().test).pixels.float() / 255
    secret = model.attack.secret()
    eight_bit = (model.attack.stamp(pixels) * 255).round() / 255
    assert (model.attack.read(eight_bit) == secret).float().mean() >= 0.9
    assert (model.attack.read(pixels) == secret).all(1).float().mean() <= 0.1


@pytest.mark.parametrize("evades", ["score", "experts"])
def test_the_adaptive_trigger_is_seen_less_than_the_one_that_was_planted(
    evades: Literal["score", "experts"],
) -> None:
    """By a defender with clean samples that the attacker has not seen."""
    model = implanted(
        Adaptive(target=3, epochs=5, rounds=1, samples=300, steps=80, evasion=0.3, evades=evades)
    )
    assert model.attack is not None
    picture = generated_picture(torch.Size([1, SIDE, SIDE]), seed=0)
    naive = replace(model.attack, learned={"pattern": picture})
    # What is hidden from the detector works less often: that is the attacker's price.
    assert hits(model.module, naive) >= 0.9
    assert hits(model.module, model.attack) >= 0.75
    detector = extracted(model.module)
    test = part(digits().test)
    pixels = test.pixels.float() / 255
    counted = pixels[model.attack.counts(test.labels)]
    parts = EXPERTS if evades == "experts" else detector.parts

    def score(pixels: Tensor) -> Tensor:
        return detector.combine(detector.bundle.view(pixels, parts))

    seen, hidden = (
        auroc(score(pixels), score(attack.stamp(counted))) for attack in (naive, model.attack)
    )
    assert hidden < seen - 0.005


def extracted(module: nn.Module) -> BaDExpert:
    mine = part(digits().clean)
    plan = Preprocessing(SIDE, SIDE, 1, (0.0,), (1.0,))
    clean = CleanSet.from_tensors(mine.pixels, mine.labels, num_classes=10)
    suspect = VisionSuspect(module, plan, num_classes=10)
    return BaDExpert(extract(suspect, clean, context=RunContext(seed=5)))
