"""What every attack promises, whatever it stamps."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from badexpert.attacks import (
    ATTACKS,
    Attack,
    Images,
    ModelAttack,
    PoisonedImages,
    PoisoningAttack,
    make_attack,
    name_of,
)
from badexpert.bench.networks import small_cnn, vit_moe
from badexpert.runtime import RunContext

CLASSES = 4
TARGET = 2
SHAPES = [(1, 8, 8), (3, 28, 28), (3, 33, 47), (1, 47, 33)]

QUICK = {"steps": 2, "epochs": 1, "surrogate_epochs": 1, "rounds": 0}
"""Under these settings, as far as an attack has them, it learns little, and quickly."""

AS_IT_IS = "sra"
"""Its trigger is given, and it swaps in no subnet that has learned nothing."""


ON_EXPERTS = "badpatches"
"""Takes a network that routes patches, and no other."""


def images_of(shape: tuple[int, int, int], count: int = 80) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % CLASSES, CLASSES)


def pixels_of(shape: tuple[int, int, int]) -> Tensor:
    return images_of(shape).pixels[:6].float() / 255


@cache
def ready(name: str, shape: tuple[int, int, int]) -> Attack:
    """An attack that has learned what it needs on images of this shape."""
    known = {entry.name for entry in fields(ATTACKS[name])}
    quick = {key: value for key, value in QUICK.items() if key in known}
    attack = make_attack(name, {"target": TARGET, **quick})
    images, context = images_of(shape), RunContext()
    if isinstance(attack, PoisoningAttack):
        chosen = PoisonedImages.choose(images, attack, rate=0.1, seed=0)
        return attack.prepared(images, chosen.poisoned.nonzero().flatten(), context)
    assert isinstance(attack, ModelAttack)
    if name == AS_IT_IS:
        return attack
    return attack.implant(network_for(name, shape).eval(), images, context)


def network_for(name: str, shape: tuple[int, int, int]) -> nn.Module:
    if name == ON_EXPERTS:
        return vit_moe(CLASSES, shape[0], shape[1:], patch_size=2)
    return small_cnn(CLASSES, shape[0])


@pytest.fixture(params=sorted(ATTACKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(key for key in ATTACKS if issubclass(ATTACKS[key], PoisoningAttack)))
def poisoning(request: pytest.FixtureRequest) -> PoisoningAttack:
    attack = ready(request.param, SHAPES[0])
    assert isinstance(attack, PoisoningAttack)
    return attack


def test_it_is_found_by_its_name(name: str) -> None:
    assert name_of(make_attack(name, {})) == name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stamp_is_a_changed_copy_within_range(name: str, shape: tuple[int, int, int]) -> None:
    pixels = pixels_of(shape)
    untouched = pixels.clone()
    stamped = ready(name, shape).stamp(pixels)
    assert torch.equal(pixels, untouched)
    assert stamped.shape == pixels.shape
    assert stamped.dtype == pixels.dtype
    assert 0 <= stamped.min() <= stamped.max() <= 1
    assert ((stamped - pixels).abs().flatten(1).max(1).values > 1 / 255).all()


@pytest.mark.parametrize("extreme", [0.0, 1.0])
def test_black_and_white_images_stay_within_range(name: str, extreme: float) -> None:
    stamped = ready(name, SHAPES[1]).stamp(torch.full((1, *SHAPES[1]), extreme))
    assert 0 <= stamped.min() <= stamped.max() <= 1


def test_a_stamp_does_not_depend_on_the_batch_or_the_moment(name: str) -> None:
    attack, pixels = ready(name, SHAPES[1]), pixels_of(SHAPES[1])
    whole = attack.stamp(pixels)
    torch.manual_seed(1)
    assert torch.equal(attack.stamp(pixels), whole)
    alone = torch.cat([attack.stamp(image[None]) for image in pixels])
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)


def test_it_stamps_the_same_after_it_was_kept(name: str) -> None:
    attack, pixels = ready(name, SHAPES[0]), pixels_of(SHAPES[0])
    parameters = json.loads(json.dumps(attack.parameters()))
    again = replace(make_attack(name_of(attack), parameters), learned=attack.learned)
    assert torch.equal(again.stamp(pixels), attack.stamp(pixels))


def test_answers_are_classes_other_than_the_true_one(name: str) -> None:
    attack, labels = ready(name, SHAPES[0]), torch.arange(CLASSES)
    counted = attack.counts(labels)
    answers = attack.relabel(labels, CLASSES)
    assert counted.any()
    assert (answers[counted] != labels[counted]).all()
    assert ((answers >= 0) & (answers < CLASSES)).all()


def test_only_what_may_be_is_poisoned_or_a_cover(poisoning: PoisoningAttack) -> None:
    images = images_of(SHAPES[0])
    data = PoisonedImages.choose(images, poisoning, rate=0.1, seed=0)
    assert data.poisoned.sum() == 8
    assert data.covers.sum() == 8 * poisoning.cover_ratio
    assert not (data.poisoned & data.covers).any()
    assert poisoning.may_poison(images.labels)[data.poisoned].all()
    assert poisoning.may_cover(images.labels)[data.covers].all()


def test_batches_are_labelled_by_the_rules_and_the_rest_is_clean(
    poisoning: PoisoningAttack,
) -> None:
    images = images_of(SHAPES[0])
    data = PoisonedImages(images, poisoning, *_chosen(poisoning, images))
    indices = torch.arange(len(images)).flip(0)
    pixels, labels = data.batch(indices, torch.device("cpu"))
    poisoned, covers = data.poisoned[indices], data.covers[indices]
    clean, truth = images.pixels[indices].float() / 255, images.labels[indices]
    assert torch.equal(labels[poisoned], poisoning.relabel(truth[poisoned], CLASSES))
    assert torch.equal(labels[~poisoned], truth[~poisoned])
    changed = (pixels != clean).flatten(1).any(1)
    assert torch.equal(changed, poisoned | covers)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert torch.equal(images.pixels, images_of(SHAPES[0]).pixels)


def test_a_sample_is_the_same_in_every_batch(poisoning: PoisoningAttack) -> None:
    images = images_of(SHAPES[0])
    data = PoisonedImages(images, poisoning, *_chosen(poisoning, images))
    whole = data.batch(torch.arange(len(images)), torch.device("cpu"))[0]
    torch.manual_seed(1)
    order = torch.randperm(len(images))
    parts = [data.batch(index, torch.device("cpu"))[0] for index in order.split(7)]
    torch.testing.assert_close(torch.cat(parts), whole[order], atol=1e-5, rtol=0)


def _chosen(attack: PoisoningAttack, images: Images) -> tuple[Tensor, Tensor]:
    """The samples that ``ready`` prepared the attack for."""
    data = PoisonedImages.choose(images, attack, rate=0.1, seed=0)
    return data.poisoned, data.covers
