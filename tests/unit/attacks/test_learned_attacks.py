"""The equations and the promises of attacks that learn, without a training worth the name."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from badexpert.attacks import (
    FT,
    ISSBA,
    SRA,
    Adaptive,
    Attack,
    Blend,
    Dynamic,
    Images,
    Natural,
    TrojanNN,
)
from badexpert.attacks.descent import adam, descend
from badexpert.attacks.dynamic import diversity_loss
from badexpert.attacks.finetuning import fine_tune
from badexpert.attacks.generators import ImageToImage, run, skeleton, weights_of
from badexpert.attacks.head import find_head, inputs_of
from badexpert.attacks.patterns import apply_masked, find_pattern
from badexpert.attacks.trojannn import strongest_neurons
from badexpert.bench.networks import small_cnn
from badexpert.errors import AttackError
from badexpert.models.origin import digest_module
from badexpert.runtime import RunContext, Step
from tests.small_models import extracted

CONTEXT = RunContext()
BLACK = torch.zeros(1, 1, 8, 8)


def images(count: int = 40, channels: int = 1, side: int = 8) -> Images:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 4, 4)


def floats(data: Images) -> Tensor:
    return data.pixels.float() / 255


@pytest.mark.parametrize("attack", [Dynamic(), ISSBA(), TrojanNN(), Natural(), Adaptive()])
def test_there_is_no_trigger_before_it_is_learned(attack: Attack) -> None:
    with pytest.raises(AttackError, match=f"{type(attack).__name__} has no '.*' yet"):
        attack.stamp(BLACK)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (Dynamic, "density"),
        (ISSBA, "bits"),
        (FT, "share"),
        (TrojanNN, "neurons"),
        (SRA, "width"),
        (Natural, "area"),
        (Adaptive, "samples"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: type[Attack], setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be positive; got 0"):
        kind(**{setting: 0})


@pytest.mark.parametrize("attack", [Dynamic(steps=2), ISSBA(steps=3)])
def test_generators_repeat_with_the_seed_and_refuse_other_channels(
    attack: Dynamic | ISSBA,
) -> None:
    poisoned, pixels = torch.tensor([1, 2]), floats(images())
    first = attack.prepared(images(), poisoned, CONTEXT)
    torch.manual_seed(1)
    assert torch.equal(
        attack.prepared(images(), poisoned, CONTEXT).stamp(pixels), first.stamp(pixels)
    )
    other = replace(attack, seed=1).prepared(images(), poisoned, CONTEXT)
    assert not torch.equal(other.stamp(pixels), first.stamp(pixels))
    with pytest.raises(AttackError, match="learned on other images"):
        first.stamp(torch.zeros(1, 3, 8, 8))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_the_generator_takes_images_of_any_size(height: int, width: int) -> None:
    network = ImageToImage(1, 2, 4).eval()
    assert network(torch.rand(1, 1, height, width)).shape == (1, 2, height, width)


def test_a_network_run_from_its_weights_is_that_network() -> None:
    network = ImageToImage(3, 2, 4)
    network(torch.rand(8, 3, 9, 7))
    inputs = torch.rand(2, 3, 9, 7)
    weights = {name[2:]: values for name, values in weights_of(network, "g").items()}
    state = torch.get_rng_state()
    outputs = run(skeleton(ImageToImage, 3, 2, 4), weights, inputs)
    assert torch.equal(outputs, network.eval()(inputs))
    assert torch.equal(torch.get_rng_state(), state)


def test_dynamic_replaces_pixels_under_the_mask() -> None:
    pixels = torch.tensor([0.2, 0.4]).view(1, 1, 1, 2)
    pattern = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    mask = torch.tensor([0.25, 1.0]).view(1, 1, 1, 2)
    expected = torch.tensor([0.75 * 0.2 + 0.25, 0.0])
    assert torch.allclose(apply_masked(pixels, pattern, mask).flatten(), expected)


def test_diversity_is_the_distance_of_images_over_that_of_triggers() -> None:
    images, others = torch.zeros(2, 1, 1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    pattern, other = torch.zeros(2, 1, 1, 2), torch.tensor([[0.0, 2.0], [0.5, 0.0]])
    shape = (2, 1, 1, 2)
    loss = diversity_loss(images, others.view(shape), pattern, other.view(shape))
    assert loss.item() == pytest.approx((5 / 2 + 1 / 0.5) / 2, rel=0.01)
    assert math.isfinite(diversity_loss(images, others.view(shape), pattern, pattern))


def test_a_cover_carries_the_trigger_of_a_poisoned_image() -> None:
    data, poisoned = images(), torch.tensor([4, 9, 30])
    attack = Dynamic(steps=2).prepared(data, poisoned, CONTEXT)
    indices = torch.tensor([7, 11])
    others = floats(data)[poisoned[indices % 3]]
    expected = apply_masked(floats(data)[indices], *attack.trigger(others))
    assert torch.allclose(attack.cover(floats(data)[indices], indices), expected, atol=1e-6)


def test_issba_changes_no_pixel_by_more_than_its_amplitude() -> None:
    attack = ISSBA(steps=3, amplitude=0.05).prepared(images(), torch.tensor([0]), CONTEXT)
    change = attack.stamp(floats(images())) - floats(images())
    assert 0 < change.abs().max() <= 0.05 + 1e-6
    assert not torch.allclose(change[0], change[1], atol=1e-3)


def test_issbas_secret_comes_from_the_seed() -> None:
    secrets = [ISSBA(seed=seed, bits=32).secret() for seed in (0, 0, 1)]
    assert torch.equal(secrets[0], secrets[1])
    assert not torch.equal(secrets[0], secrets[2])
    assert set(secrets[0].tolist()) == {0.0, 1.0}


def test_ft_stamps_what_blend_stamps() -> None:
    pixels = floats(images())
    assert torch.equal(FT(alpha=0.3, seed=2).stamp(pixels), Blend(alpha=0.3, seed=2).stamp(pixels))


class Recording(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        assert self.training
        self.seen.append(pixels.detach())
        scores: Tensor = self.linear(pixels.flatten(1))
        return scores


def test_fine_tuning_stamps_the_share_of_each_batch() -> None:
    module = Recording()
    attack = FT(alpha=1.0, target=2)
    data = images(40)
    before = module.linear.weight.clone()
    fine_tune(module, attack, data, share=0.2, epochs=3, lr=0.1, batch_size=10, context=CONTEXT)
    picture = attack.stamp(BLACK)[0]
    assert len(module.seen) == 12
    for batch in module.seen:
        assert (batch == picture).flatten(1).all(1).tolist() == [True] * 2 + [False] * 8
    assert not module.training
    assert not torch.equal(module.linear.weight, before)


def test_a_descent_finds_the_minimum_and_sees_each_sample_once_a_pass() -> None:
    point, seen = torch.tensor(3.0, requires_grad=True), []
    steps: list[Step] = []

    def loss(pixels: Tensor, labels: Tensor) -> Tensor:
        assert 0 <= pixels.min() <= pixels.max() <= 1
        seen.extend(labels.tolist())
        return (point - 1) ** 2

    data = replace(images(40), labels=torch.arange(40))
    descend(
        loss,
        [point],
        data,
        task="point",
        steps=100,
        optimizer=adam(0.1),
        batch_size=10,
        context=RunContext(progress=steps.append),
    )
    assert point.item() == pytest.approx(1, abs=0.03)
    assert sorted(seen[:40]) == sorted(seen[40:80]) == list(range(40))
    assert seen[:40] != seen[40:80]
    assert steps[-1].done == steps[-1].total == 100


def test_a_descent_into_nan_is_refused() -> None:
    point = torch.tensor(0.0, requires_grad=True)
    with pytest.raises(AttackError, match="hole: the loss is not finite at step 1 of 5"):
        descend(
            lambda pixels, labels: point / 0,
            [point],
            images(),
            task="hole",
            steps=5,
            optimizer=adam(0.1),
            context=CONTEXT,
        )


def test_the_head_is_the_last_layer_with_a_score_a_class() -> None:
    network = small_cnn(4).eval()
    head = find_head(network, torch.rand(2, 1, 8, 8), 4)
    assert head is network.get_submodule("12")
    convolutional = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1))
    head = find_head(convolutional, torch.rand(2, 1, 8, 8), 4)
    with inputs_of(head) as features:
        convolutional(torch.rand(2, 1, 8, 8))
    assert features[0].shape == (2, 5)
    with pytest.raises(AttackError, match="no linear or convolutional layer .* gives 7 scores"):
        find_head(network, torch.rand(2, 1, 8, 8), 7)


def test_trojannn_chooses_neurons_by_the_weights_behind_them() -> None:
    head = nn.Linear(3, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -3.0, 0.5], [0.0, 2.0, -1.0]]))
    assert strongest_neurons(head, 2).tolist() == [1, 2]
    assert sorted(strongest_neurons(head, 100).tolist()) == [0, 1, 2]


def test_trojannns_patch_excites_its_neurons() -> None:
    network, data = small_cnn(4).eval(), images()
    attack = TrojanNN(size=4, neurons=8, steps=60)
    head = find_head(network, floats(data)[:2], 4)
    found = attack._exciting(network, head, data, CONTEXT)
    start = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))

    def excitement(pattern: Tensor) -> float:
        with inputs_of(head) as features, torch.no_grad():
            network(replace(attack, learned={"pattern": pattern}).stamp(floats(data)))
        return features[0][:, strongest_neurons(head, 8)].mean().item()

    assert excitement(found) > 1.05 * excitement(start)


def test_the_search_for_a_pattern_leaves_the_module_as_it_was() -> None:
    module = small_cnn(4).eval()
    module.get_submodule("0").weight.requires_grad_(False)
    before, data = copy.deepcopy(module), images()

    def loss(pattern: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        return module(pixels).sum() * 0 + (pattern - torch.tensor([1.5, 0.3])).square().sum()

    pattern = find_pattern(
        loss, torch.tensor([0.0, 1.0]), module, data, task="p", steps=200, context=CONTEXT
    )
    assert pattern.tolist() == [pytest.approx(1, abs=0.04), pytest.approx(0.3, abs=0.02)]
    assert not pattern.requires_grad
    assert digest_module(module) == digest_module(before)
    wanted = [values.requires_grad for values in before.parameters()]
    assert [values.requires_grad for values in module.parameters()] == wanted
    assert all(values.grad is None for values in module.parameters())


def test_natural_covers_as_much_as_it_may() -> None:
    attack = Natural(area=0.2, steps=100).implant(small_cnn(4).eval(), images(), CONTEXT)
    assert attack.learned["trigger"].shape == (2, 8, 8)
    assert attack.learned["trigger"][-1].mean() <= 0.22


def test_an_attacker_can_look_at_a_bundle_with_gradients() -> None:
    bundle = extracted().bundle
    pixels = extracted().model.clean_inputs[:5].float() / 255
    pixels.requires_grad_()
    seen, looked = bundle.view(pixels), bundle.look(pixels)
    for part, values in seen.log_odds.items():
        assert torch.equal(looked.log_odds[part], values)
        (slope,) = torch.autograd.grad(looked.log_odds[part].sum(), pixels, retain_graph=True)
        assert (slope.flatten(1).abs().amax(1) > 0).all()
    assert looked.distances is not None
    (slope,) = torch.autograd.grad(looked.distances.sum(), pixels)
    assert (slope.flatten(1).abs().amax(1) > 0).all()


def test_an_attacker_whose_model_has_learned_nothing_cannot_simulate_the_defence() -> None:
    torch.manual_seed(0)
    with pytest.raises(AttackError, match="the extraction that the attacker simulates fails"):
        Adaptive(rounds=1).implant(small_cnn(4), images(), CONTEXT)
