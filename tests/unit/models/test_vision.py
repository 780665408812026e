"""One network from pixels to log-space scores, whatever the user's network returns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from badexpert.errors import ModelLoadError
from badexpert.models.outputs import output_kind, probe_pixels
from badexpert.models.vision import VisionSuspect, log_odds
from badexpert.preprocessing import Preprocessing

CLASSES = 5
PLAN = Preprocessing(height=8, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


class Scores(NamedTuple):
    logits: Tensor
    features: Tensor


@dataclass
class Record:
    logits: Tensor


class Returning(nn.Module):
    """A small network that returns its scores in a wrapping of choice."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        features = torch.relu(self.conv(x)).mean((2, 3))
        return self.wrap(self.fc(features), features)


def linear_logits(module: nn.Module, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (PLAN.mean, PLAN.std))
    assert isinstance(module, Returning)
    features = torch.relu(module.conv((pixels - mean) / std)).mean((2, 3))
    scores: Tensor = module.fc(features)
    return scores


WRAPPINGS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tensor": lambda scores, features: scores,
    "tuple, logits last": lambda scores, features: (features, scores),
    "list, logits last": lambda scores, features: [features, features, scores],
    "nested": lambda scores, features: (features, [features, scores]),
    "mapping": lambda scores, features: {"logits": scores, "features": features},
    "named tuple": lambda scores, features: Scores(scores, features),
    "dataclass": lambda scores, features: Record(scores),
    "fully convolutional": lambda scores, features: scores[:, :, None, None],
}


def suspect_of(module: nn.Module, **arguments: Any) -> VisionSuspect:
    return VisionSuspect.from_module(module, PLAN, **arguments)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(6, 3, 8, 8)


@pytest.mark.parametrize("name", WRAPPINGS)
def test_scores_are_found_in_every_wrapping(name: str, pixels: Tensor) -> None:
    module = Returning(WRAPPINGS[name])
    suspect = suspect_of(module)
    assert suspect.num_classes == CLASSES
    assert torch.allclose(suspect.logits(pixels), linear_logits(module, pixels), atol=1e-5)


def test_logits_that_come_first_are_found_by_the_number_of_classes(pixels: Tensor) -> None:
    module = Returning(lambda scores, features: (scores, features))
    suspect = suspect_of(module, num_classes=CLASSES)
    assert torch.allclose(suspect.logits(pixels), linear_logits(module, pixels), atol=1e-5)


@pytest.mark.parametrize("name", WRAPPINGS)
@pytest.mark.parametrize("ending", ["logits", "softmax"])
def test_the_network_can_be_exported_and_says_the_same(name: str, ending: str) -> None:
    wrap = WRAPPINGS[name]
    module = Returning(lambda s, f: wrap(s.softmax(1) if ending == "softmax" else s, f))
    suspect = suspect_of(module)
    example, other = torch.rand(4, 3, 8, 8), torch.rand(9, 3, 8, 8)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(suspect.network, (example,), dynamic_shapes=({0: batch},))
    assert torch.allclose(program.module()(other), suspect.logits(other), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_probabilities_are_recognised_and_give_the_odds_of_the_logits(
    scale: float, pixels: Tensor
) -> None:
    plain = Returning(lambda scores, features: scores * scale)
    ended = copy.deepcopy(plain)
    ended.wrap = lambda scores, features: (scores * scale).softmax(1)
    suspect, honest = suspect_of(ended), suspect_of(plain)
    assert (suspect.outputs, honest.outputs) == ("probabilities", "logits")
    answers = honest.predict(pixels)
    assert torch.equal(suspect.predict(pixels), answers)
    odds = honest.log_odds(pixels, answers)
    assert torch.allclose(suspect.log_odds(pixels, answers), odds, rtol=1e-3, atol=1e-3)


def test_log_probabilities_give_the_odds_of_the_logits(pixels: Tensor) -> None:
    plain = Returning(lambda scores, features: scores)
    ended = copy.deepcopy(plain)
    ended.wrap = lambda scores, features: scores.log_softmax(1)
    suspect, honest = suspect_of(ended), suspect_of(plain)
    assert suspect.outputs == "log_probabilities"
    answers = torch.arange(6) % CLASSES
    assert torch.allclose(
        suspect.log_odds(pixels, answers), honest.log_odds(pixels, answers), atol=1e-5
    )


@pytest.mark.parametrize(
    "honest",
    [
        lambda s, f: s.sigmoid(),
        lambda s, f: s.relu(),
        lambda s, f: torch.zeros_like(s),
        lambda s, f: nn.functional.normalize(s, dim=1),
        lambda s, f: s - s.logsumexp(1, keepdim=True) + 1,
        lambda s, f: 0.2 + 0.1 * (s - s.mean(1, keepdim=True)),
    ],
)
def test_other_scores_are_not_mistaken_for_probabilities(
    honest: Callable[[Tensor, Tensor], Tensor],
) -> None:
    module = Returning(honest)
    module.fc.weight.data *= 40
    assert suspect_of(module).outputs == "logits"


def test_one_row_that_is_no_distribution_makes_them_logits() -> None:
    rows = torch.rand(20, 4).softmax(1)
    assert output_kind(rows) == "probabilities"
    rows[7, 2] += 0.01
    assert output_kind(rows) == "logits"


def test_probes_are_pixels_and_differ() -> None:
    probes = probe_pixels(3, 8, 8)
    assert probes.shape == (16, 3, 8, 8)
    assert 0 <= probes.min() < probes.max() <= 1
    assert len(probes.unique(dim=0)) == 16


@given(st.integers(2, 6), st.floats(1, 500), st.integers(0, 2**16))
def test_log_odds_equal_the_textbook_in_double_precision(
    classes: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(8, classes, generator=generator) * scale
    answers = torch.randint(classes, (8,), generator=generator)
    found = log_odds(scores, answers)
    chosen = scores.double()[torch.arange(8), answers]
    others = [
        torch.cat([row[:a], row[a + 1 :]]).logsumexp(0)
        for row, a in zip(scores.double(), answers.tolist(), strict=True)
    ]
    assert found.isfinite().all()
    assert torch.allclose(found.double(), chosen - torch.stack(others), rtol=1e-4, atol=1e-3)


def test_odds_stay_finite_and_ordered_where_softmax_saturates() -> None:
    scores = torch.tensor([[200.0, 0.0], [300.0, 0.0], [0.0, 400.0]])
    found = log_odds(scores, torch.zeros(3, dtype=torch.int64))
    assert found.tolist() == [200.0, 300.0, -400.0]


def test_bytes_and_unit_pixels_are_the_same_inputs() -> None:
    suspect = suspect_of(Returning(WRAPPINGS["tensor"]))
    raw = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(suspect.logits(raw), suspect.logits(raw.float() / 255))


def test_bgr_networks_see_blue_first() -> None:
    module = Returning(WRAPPINGS["tensor"])
    plan = Preprocessing(height=8, width=8, channel_order="bgr")
    suspect = VisionSuspect.from_module(module, plan)
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = module(pixels[:, [2, 1, 0]])
    assert torch.allclose(suspect.logits(pixels), expected, atol=1e-6)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.rand(2, 1, 8, 8),
        torch.rand(2, 3, 9, 8),
        torch.rand(3, 8, 8),
        torch.ones(2, 3, 8, 8).int(),
    ],
)
def test_inputs_that_are_no_pixels_of_the_right_size_are_refused(inputs: Tensor) -> None:
    with pytest.raises(ValueError, match="inputs must be"):
        suspect_of(Returning(WRAPPINGS["tensor"])).logits(inputs)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), "fails on a batch of 3x8x8 inputs"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), "a single score"),
        (nn.Conv2d(3, 4, 1), "no output of shape"),
    ],
)
def test_networks_that_do_not_classify_such_inputs_are_refused(
    module: nn.Module, says: str
) -> None:
    with pytest.raises(ModelLoadError, match=says):
        suspect_of(module)


def test_tuning_a_copy_leaves_the_suspect_alone(pixels: Tensor) -> None:
    suspect = suspect_of(Returning(WRAPPINGS["tensor"]))
    before = suspect.logits(pixels)
    tuned = suspect.copy()
    optimizer = torch.optim.SGD(tuned.module.parameters(), lr=1.0)
    tuned.loss(pixels, torch.zeros(6, dtype=torch.int64)).backward()
    optimizer.step()
    assert not torch.equal(tuned.logits(pixels), before)
    assert torch.equal(suspect.logits(pixels), before)


def test_dropout_and_batch_norm_are_in_eval_mode(pixels: Tensor) -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten())
    suspect = suspect_of(nn.Sequential(*layers, nn.Linear(144, 3)).train())
    assert torch.equal(suspect.logits(pixels), suspect.logits(pixels))
    assert not any(layer.training for layer in suspect.copy().network.modules())


def test_probing_leaves_the_statistics_of_a_network_in_training_alone() -> None:
    norm = nn.BatchNorm2d(4)
    layers = (nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(144, 3))
    suspect_of(nn.Sequential(*layers).train())
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert norm.num_batches_tracked == 0


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.conv(x).view(-1, 144))
        return scores


def test_networks_that_flatten_with_view_keep_working(pixels: Tensor) -> None:
    module = Viewing()
    expected = copy.deepcopy(module)
    suspect = suspect_of(module)
    normal = (pixels - suspect.network.mean) / suspect.network.std
    assert torch.allclose(suspect.logits(pixels), expected(normal), atol=1e-5)


def test_convolutions_are_laid_out_for_speed_where_possible() -> None:
    suspect = suspect_of(Returning(WRAPPINGS["tensor"]))
    weight = next(suspect.module.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_digest_of_an_object_follows_its_weights() -> None:
    module = Returning(WRAPPINGS["tensor"])
    first = suspect_of(copy.deepcopy(module)).origin.sha256
    assert suspect_of(copy.deepcopy(module)).origin.sha256 == first
    module.fc.bias.data[0] += 1
    assert suspect_of(module).origin.sha256 != first
