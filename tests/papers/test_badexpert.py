"""BaDExpert (Xie et al., ICLR 2024, arXiv:2308.12439): its equations and its settings."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from badexpert.cleanset import mislabel
from badexpert.config import ExtractionConfig, PaperConfig
from badexpert.detectors import PaperBaDExpert, ensemble_score
from badexpert.extraction.comparison import AUXILIARY, SHIFTED
from badexpert.extraction.features import Features
from badexpert.extraction.paper import tune_auxiliary_as_published, tune_expert_as_published
from badexpert.models.origin import digest_module
from badexpert.runtime import RunContext, Step
from badexpert.split import WHOLE
from tests.small_models import Extracted, backdoored

probabilities = st.floats(1e-6, 1 - 1e-6)
slopes = st.floats(0.05, 1.0)


def odds(*probability: float) -> Tensor:
    return torch.tensor(probability, dtype=torch.float64).logit()


def published(x: float, y: float, c: float) -> float:
    """The score as the paper writes it: low for backdoor inputs."""
    return min(y / (c * x), (1 - x) / max(c - y, 1e-8))


def score(x: float, y: float, c: float) -> float:
    return math.exp(-ensemble_score(odds(x), odds(y), slope=c).item())


@pytest.mark.parametrize(
    ("x", "y", "c", "expected"),
    [
        (0.8, 0.2, 0.5, 0.5),  # min(0.2 / 0.4, 0.2 / 0.3)
        (0.9, 0.3, 0.5, 0.5),  # min(0.3 / 0.45, 0.1 / 0.2)
        (0.1, 0.9, 0.5, 18.0),  # min(0.9 / 0.05, 0.9 / 1e-8): a clean input
        (0.99, 0.01, 0.5, 0.01 / 0.495),  # a backdoor input
        (0.5, 0.1, 0.2, 1.0),  # min(0.1 / 0.1, 0.5 / 0.1)
    ],
)
def test_the_score_of_hand_worked_inputs(x: float, y: float, c: float, expected: float) -> None:
    assert published(x, y, c) == pytest.approx(expected)
    assert score(x, y, c) == pytest.approx(expected, rel=1e-6)


@given(probabilities, probabilities, slopes)
def test_the_score_in_log_space_is_minus_the_logarithm_of_the_papers(x, y, c):
    assert score(x, y, c) == pytest.approx(published(x, y, c), rel=1e-4)


@given(probabilities, probabilities, probabilities, slopes)
def test_suspicion_grows_with_the_expert_and_falls_with_the_auxiliary(x, y, other, c):
    low, high = sorted((x, other))
    assert score(high, y, c) <= score(low, y, c) * (1 + 1e-9)
    low, high = sorted((y, other))
    assert score(x, low, c) <= score(x, high, c) * (1 + 1e-9)


@pytest.mark.parametrize("c", [0.2, 0.5])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_the_boundary_is_a_line_through_the_origin_and_a_line_through_one_and_c(
    c: float, threshold: float
) -> None:
    lines = {
        "origin": [(x, threshold * c * x) for x in (1e-6, 0.01, 0.1)],
        "(1, c)": [(1 - threshold * gap, c - gap) for gap in (1e-5, c / 100, c / 10)],
    }
    for points in lines.values():
        for x, y in points:
            assert score(x, y, c) == pytest.approx(threshold, rel=1e-3)
    # Just above the boundary an input passes, just below it is flagged.
    for x, y in (point for points in lines.values() for point in points):
        assert score(x, y * 1.01, c) > threshold > score(x, y * 0.99, c)


def test_the_order_is_kept_where_probabilities_saturate() -> None:
    steps = torch.tensor([50.0, 100.0, 200.0])
    unsure = torch.full((3,), -3.0)
    assert (ensemble_score(steps, -steps, slope=0.5).diff() > 0).all()
    assert (ensemble_score(unsure, -steps, slope=0.5).diff() > 0).all()
    assert ensemble_score(steps, steps, slope=0.5).isfinite().all()


def test_an_input_that_both_copies_are_certain_of_is_not_the_most_suspicious() -> None:
    certain, certainly_not = torch.tensor([200.0]), torch.tensor([-200.0])
    both = ensemble_score(certain, certain, slope=0.5)
    assert both < ensemble_score(certain, certainly_not, slope=0.5)


def test_scores_of_different_inputs_do_not_mix() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        ensemble_score(torch.zeros(3), torch.zeros(1), slope=0.5)


def test_labels_are_shifted_by_one_around_the_classes() -> None:
    assert mislabel(torch.tensor([0, 1, 8, 9]), num_classes=10).tolist() == [1, 2, 9, 0]
    assert mislabel(torch.tensor([0, 1]), num_classes=2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="changes no label"):
        mislabel(torch.tensor([0]), num_classes=10, shift=10)


def test_the_defaults_are_those_of_cifar10_and_resnet18() -> None:
    assert PaperConfig() == PaperConfig(
        expert_lr=1e-4,
        expert_epochs=1,
        expert_batch_size=128,
        auxiliary_lr=0.1,
        auxiliary_decay=0.1,
        auxiliary_epochs=10,
        auxiliary_batch_size=64,
        slope=0.5,
        crop=4,
        flip=True,
    )


class Network(nn.Module):
    """Remembers what it was shown, and in which mode."""

    shown: ClassVar[list[Tensor]] = []
    modes: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.fc = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        self.modes.append(self.norm.training)
        scores: Tensor = self.fc(self.norm(self.conv(x)).flatten(1))
        return scores


class Spy:
    """Stands in for an optimizer's class and notes every step."""

    def __init__(self, kind: type[torch.optim.Optimizer]) -> None:
        self.kind, self.settings = kind, dict[str, Any]()
        self.rates: list[float] = []

    def __call__(self, parameters: Any, lr: float, **settings: Any) -> torch.optim.Optimizer:
        self.settings = settings
        optimizer = self.kind(parameters, lr, **settings)  # type: ignore[call-arg]
        optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: self.rates.append(optimizer.param_groups[0]["lr"])
        )
        return optimizer


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    Network.shown.clear()
    Network.modes.clear()
    return Network().eval()


def samples(count: int = 300) -> Features:
    pixels = torch.randint(
        256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Features(pixels, torch.arange(count) % 4)


def test_the_expert_is_one_epoch_of_adam_with_batch_norm_in_train_mode(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(torch.optim.Adam)
    monkeypatch.setattr(torch.optim, "Adam", spy)
    expert = tune_expert_as_published(network, samples(), 4, PaperConfig(), RunContext())
    assert spy.rates == [1e-4] * math.ceil(300 / 128)
    assert [len(batch) for batch in Network.shown] == [128, 128, 44]
    assert all(Network.modes)
    assert isinstance(expert, Network)
    assert not torch.equal(expert.norm.running_mean, network.norm.running_mean)
    assert not expert.training


def test_the_expert_learns_the_shifted_labels(network: Network) -> None:
    paper = PaperConfig(expert_lr=0.02, expert_epochs=60, crop=0, flip=False)
    features = samples(40)
    expert = tune_expert_as_published(network, features, 4, paper, RunContext())
    answers = features.through(expert, torch.device("cpu")).argmax(1)
    assert (answers == (features.labels + 1) % 4).float().mean() >= 0.9


def test_the_auxiliary_is_ten_epochs_of_nesterov_decayed_after_every_second(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(torch.optim.SGD)
    monkeypatch.setattr(torch.optim, "SGD", spy)
    auxiliary = tune_auxiliary_as_published(network, samples(), PaperConfig(), RunContext())
    batches = math.ceil(300 / 64)
    expected = [0.1 * 0.1**decays for decays in range(5) for _ in range(2 * batches)]
    assert spy.rates == pytest.approx(expected)
    assert spy.settings == {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    assert all(Network.modes)
    assert not auxiliary.training


def test_the_auxiliary_learns_the_true_labels(network: Network) -> None:
    paper = PaperConfig(
        auxiliary_lr=0.05, auxiliary_epochs=40, auxiliary_decay=1.0, crop=0, flip=False
    )
    features = samples(40)
    auxiliary = tune_auxiliary_as_published(network, features, paper, RunContext())
    answers = features.through(auxiliary, torch.device("cpu")).argmax(1)
    assert (answers == features.labels).float().mean() >= 0.9


def test_images_are_cropped_and_mirrored_anew_in_every_epoch(network: Network) -> None:
    features = Features(samples(64).values, samples(64).labels)
    tune_auxiliary_as_published(network, features, PaperConfig(), RunContext())
    originals = {image.numpy().tobytes() for image in features.values.float() / 255}
    epochs = [{image.numpy().tobytes() for image in batch} for batch in Network.shown]
    assert len(epochs) == 10
    assert all(len(epoch - originals) > 50 for epoch in epochs)
    assert not epochs[0] & epochs[1] - originals


def test_without_augmentation_the_images_are_shown_as_they_are(network: Network) -> None:
    features = samples(64)
    tune_expert_as_published(network, features, 4, PaperConfig(crop=0, flip=False), RunContext())
    (shown,) = Network.shown
    originals = features.values.float() / 255
    order = [int((originals == image).flatten(1).all(1).nonzero()) for image in shown]
    assert sorted(order) == list(range(64))


def test_tuning_leaves_the_network_alone_and_reports_every_step(network: Network) -> None:
    digest, steps = digest_module(network), list[Step]()
    context = RunContext(progress=steps.append)
    tune_expert_as_published(network, samples(), 4, PaperConfig(), context)
    tune_auxiliary_as_published(network, samples(), PaperConfig(), context)
    assert digest_module(network) == digest
    assert not network.norm.training
    assert [(step.task, step.done, step.total) for step in steps] == [
        *(("backdoor expert", done, 3) for done in (1, 2, 3)),
        *(("auxiliary", done, 50) for done in range(1, 51)),
    ]


def test_the_papers_method_tunes_full_copies_and_scores_with_its_slope() -> None:
    config = ExtractionConfig(method="paper", paper=PaperConfig(slope=0.3, crop=0, flip=False))
    case = Extracted.of(backdoored(), config=config)
    record = case.bundle.record
    assert record.cut == WHOLE
    assert record.trajectories == {SHIFTED: (), AUXILIARY: ()}
    odds = case.bundle.view(case.model.triggered).log_odds
    expected = ensemble_score(odds[SHIFTED], odds[AUXILIARY], slope=0.3)
    assert torch.equal(PaperBaDExpert(case.bundle).score(case.model.triggered), expected)
