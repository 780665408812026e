"""Extraction finds the backdoor with nothing set by hand, and touches nothing else."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from badexpert.cleanset import CleanSet
from badexpert.config import ExtractionConfig
from badexpert.detectors import BaDExpert
from badexpert.errors import AuditError, CleanSetError
from badexpert.extraction import Bundle, adaptive, auxiliary, extract
from badexpert.extraction.comparison import (
    AUXILIARIES,
    AUXILIARY,
    DISTILLED,
    EXPERTS,
    SHIFTED,
    SPREAD,
    SUSPECT,
)
from badexpert.models.origin import digest_module
from badexpert.preprocessing import Preprocessing
from badexpert.runtime import RunContext, Step
from badexpert.split import WHOLE
from tests.small_models import (
    Extracted,
    Model,
    Samples,
    auroc,
    backdoored,
    benign,
    convolutional,
    digits,
    extracted,
    trained,
    with_dropout,
)

METHODS = {
    "shared trunk": ExtractionConfig(tail_share=0.5),
    "full copies": ExtractionConfig(tail_share=1.0),
    "paper": ExtractionConfig(method="paper"),
}


def separation(case: Extracted) -> float:
    """AUROC of the default detector on a model's test images."""
    detector = BaDExpert(case.bundle)
    return auroc(detector.score(case.model.clean_inputs), detector.score(case.model.triggered))


def written(folder: Path, *bundles: Bundle) -> list[dict[str, bytes]]:
    """The files of each bundle, by name."""
    places = [folder / str(number) for number in range(len(bundles))]
    for bundle, place in zip(bundles, places, strict=True):
        bundle.save(place)
    return [{path.name: path.read_bytes() for path in place.iterdir()} for place in places]


@cache
def without_batch_norm() -> Extracted:
    return Extracted.of(with_dropout())


CASES = pytest.mark.parametrize(
    ("of", "expert"),
    [(extracted, SHIFTED), (without_batch_norm, SHIFTED), (without_batch_norm, SPREAD)],
)


def test_a_second_expert_is_tuned_only_where_there_is_no_batch_norm() -> None:
    assert extracted().bundle.parts == (SHIFTED, AUXILIARY, DISTILLED)
    assert without_batch_norm().bundle.parts == (SHIFTED, SPREAD, AUXILIARY, DISTILLED)


@CASES
def test_an_expert_forgets_its_function_and_keeps_the_backdoor(
    of: Callable[[], Extracted], expert: str
) -> None:
    case = of()
    triggered = case.bundle.view(case.model.triggered).log_odds[expert]
    clean = case.bundle.view(case.model.clean_inputs).log_odds[expert]
    assert torch.sigmoid(clean).mean() <= 0.3
    assert torch.sigmoid(triggered).mean() >= 0.4
    assert auroc(clean, triggered) >= 0.95


@pytest.mark.parametrize("auxiliary", AUXILIARIES)
def test_an_auxiliary_recovers_its_function(auxiliary: str) -> None:
    accuracy = extracted().bundle.record.clean_accuracy
    assert accuracy[auxiliary] >= 0.8 * accuracy[SUSPECT]


def test_triggered_inputs_stand_out_and_clean_ones_do_not() -> None:
    case = extracted()
    assert separation(case) >= 0.98
    detector = BaDExpert(case.bundle).calibrate(case.calibration, fpr=0.01)
    assert detector.judge(case.model.triggered).flagged.float().mean() >= 0.9
    assert detector.judge(case.model.clean_inputs).flagged.float().mean() <= 0.04


def test_the_same_patch_does_not_stand_out_on_a_benign_model() -> None:
    case = Extracted.of(benign())
    detector = BaDExpert(case.bundle).calibrate(case.calibration, fpr=0.01)
    assert detector.judge(case.model.triggered).flagged.float().mean() <= 0.05


@CASES
def test_the_trajectory_shows_the_collapse(of: Callable[[], Extracted], expert: str) -> None:
    record = of().bundle.record
    trajectory = record.trajectories[expert]
    assert trajectory[0].accuracy == pytest.approx(record.clean_accuracy[SUSPECT], abs=0.05)
    assert trajectory[-1].accuracy <= 0.2
    rates = [beat.lr for beat in trajectory]
    assert rates == sorted(rates)
    assert record.notes == ()


def test_the_same_seed_makes_the_same_bundle_whatever_was_drawn_before(tmp_path: Path) -> None:
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    again = Extracted.of(backdoored())
    assert torch.equal(torch.get_rng_state(), state)
    first, second = written(tmp_path, extracted().bundle, again.bundle)
    assert sorted(first) == ["bundle.json", "weights.safetensors"]
    assert first == second


def test_another_seed_makes_another_bundle_as_good(tmp_path: Path) -> None:
    other = Extracted.of(backdoored(), seed=1)
    first, second = written(tmp_path, extracted().bundle, other.bundle)
    assert first["weights.safetensors"] != second["weights.safetensors"]
    assert separation(other) >= 0.98


def test_dropout_in_the_papers_tuning_follows_the_seed_too(tmp_path: Path) -> None:
    suspect, fit, bundles = with_dropout().suspect, extracted().fit, []
    for seed in (1, 2):
        torch.manual_seed(seed)
        bundles.append(extract(suspect, fit, config=METHODS["paper"]))
    first, second = written(tmp_path, *bundles)
    assert first == second


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts get two looks: too few to forget, enough to see what tuning does around them."""
    monkeypatch.setattr(adaptive, "MAX_STEPS", 16)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("method", METHODS)
def test_the_suspect_is_not_changed(method: str) -> None:
    suspect = backdoored().suspect
    network, pixels = suspect.network, digits().test.pixels
    digest, before = digest_module(network), suspect.logits(pixels)
    tuning = [(values.requires_grad, values.grad) for values in network.parameters()]
    bundle = extract(suspect, extracted().fit, config=METHODS[method])
    assert (bundle.record.cut == WHOLE) is (method == "paper")
    assert (bundle.record.cut.tail_share == 1) is (method != "shared trunk")
    assert digest_module(network) == digest
    assert torch.equal(suspect.logits(pixels), before)
    for (wanted, grad), values in zip(tuning, network.parameters(), strict=True):
        assert values.requires_grad is wanted
        assert values.grad is grad
    assert not any(layer.training for layer in network.modules())


def test_calibration_samples_have_no_influence(tmp_path: Path) -> None:
    pixels, labels = digits().clean
    _, held_out = digits().clean.clean_set().split(0.5, seed=0)
    spoilt = pixels.clone()
    noise = torch.Generator().manual_seed(0)
    spoilt[held_out.indices] = torch.randint(
        256, (len(held_out), 1, 8, 8), generator=noise, dtype=torch.uint8
    )
    other = Extracted.of(backdoored(), clean=Samples(spoilt, labels).clean_set())
    assert torch.equal(other.calibration.indices, held_out.indices)
    first, second = written(tmp_path, extracted().bundle, other.bundle)
    assert first == second


def test_progress_names_every_search_and_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptive, "MAX_STEPS", 160)
    steps: list[Step] = []
    case = without_batch_norm()
    extract(case.model.suspect, case.fit, context=RunContext(progress=steps.append))
    for part in EXPERTS:
        expert = [step for step in steps if step.task == f"{part} expert"]
        done = [step.done for step in expert]
        assert len(done) > 10
        assert done == sorted(done)
        assert done[-1] == expert[-1].total
        assert "clean accuracy" in expert[0].note
    for part in AUXILIARIES:
        trials = [step for step in steps if step.task == part]
        assert [step.done for step in trials] == list(range(1, len(trials) + 1))
        assert "learning rate" in trials[0].note


def test_a_fifth_of_wrong_labels_is_survived() -> None:
    pixels, labels = digits().clean
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=generator) < 0.2
    noisy = torch.where(wrong, torch.randint(10, labels.shape, generator=generator), labels)
    case = Extracted.of(backdoored(), clean=Samples(pixels, noisy).clean_set())
    assert separation(case) >= 0.98


def test_classes_that_the_clean_set_lacks_do_not_spoil_the_others() -> None:
    present = digits().of_classes(0, 1, 2, 4, 5, 6, 8, 9)
    case = Extracted.of(Model(backdoored().suspect, present))
    shifted = case.bundle.view(case.model.clean_inputs).log_odds[SHIFTED]
    assert torch.sigmoid(shifted).mean() <= 0.3
    assert separation(case) >= 0.98


class InColour(nn.Module):
    """The digits' classifier behind a camera."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x.mean(1, keepdim=True))
        return scores


def test_colour_models_work() -> None:
    plan = Preprocessing(height=8, width=8)
    model = backdoored().with_network(InColour(backdoored().suspect.copy().module), plan)
    parts = digits()
    pixels = parts.clean.pixels.expand(-1, 3, -1, -1)
    fit, _ = Samples(pixels, parts.clean.labels).clean_set().split(0.5, seed=0)
    detector = BaDExpert(extract(model.suspect, fit))
    clean, triggered = (
        detector.score(inputs.expand(-1, 3, -1, -1))
        for inputs in (model.clean_inputs, model.triggered)
    )
    assert auroc(clean, triggered) >= 0.98


def test_models_that_return_probabilities_work() -> None:
    network = nn.Sequential(backdoored().suspect.copy().module, nn.Softmax(dim=1))
    model = backdoored().with_network(network)
    assert model.suspect.outputs == "probabilities"
    assert separation(Extracted.of(model)) >= 0.98


def test_models_without_batch_norm_and_with_dropout_work() -> None:
    assert with_dropout().attack_success_rate() >= 0.95
    assert separation(without_batch_norm()) >= 0.95


def test_two_classes_are_enough() -> None:
    model = trained(convolutional(2), digits().of_classes(0, 1), epochs=30)
    assert model.attack_success_rate() >= 0.95
    case = Extracted.of(model)
    assert case.bundle.record.clean_accuracy[SHIFTED] <= 0.6
    assert separation(case) >= 0.95


class Branching(nn.Module):
    """Takes a decision that depends on the pixels, so that it cannot be exported as a graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores.flip(1) if bool(x.mean() > 2) else scores


def test_a_model_without_a_graph_is_tuned_in_full_and_the_bundle_says_so() -> None:
    case = Extracted.of(backdoored().with_network(Branching(backdoored().suspect.copy().module)))
    assert case.bundle.record.cut == WHOLE
    (note,) = case.bundle.record.notes
    assert "full copies are tuned" in note
    assert "cannot be exported" in note
    assert separation(case) >= 0.98


@pytest.mark.usefixtures("brief")
def test_searches_that_fell_short_are_noted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auxiliary, "RECOVERED", 2.0)
    monkeypatch.setattr(auxiliary, "FIRST_LR", 1.5 * auxiliary.LOWEST_LR)
    with caplog.at_level(logging.WARNING, "badexpert"):
        bundle = extract(with_dropout().suspect, without_batch_norm().fit)
    notes = bundle.record.notes
    for part in EXPERTS:
        assert any(f"under {part} labels; that expert is weak" in note for note in notes)
    assert any("no learning rate gave a working auxiliary" in note for note in notes)
    assert any("no learning rate gave a working distilled auxiliary" in note for note in notes)
    assert [record.getMessage() for record in caplog.records] == list(notes)
    odds = bundle.view(digits().test.pixels).log_odds
    for part in AUXILIARIES:
        assert torch.equal(odds[part], odds[SUSPECT])


@pytest.mark.usefixtures("brief")
def test_classes_that_the_clean_samples_lack_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    pixels, labels = digits().clean
    known = (labels != 3) & (labels != 8)
    with caplog.at_level(logging.WARNING, "badexpert"):
        bundle = extract(backdoored().suspect, Samples(pixels[known], labels[known]).clean_set())
    assert "2 of the model's 10 classes: 3, 8. " in bundle.record.notes[0]
    assert bundle.record.notes[0] in caplog.text


def test_a_suspect_no_better_than_chance_is_refused() -> None:
    pixels, labels = digits().clean
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    with pytest.raises(AuditError, match="no normal function to forget.*badexpert inspect"):
        extract(backdoored().suspect, Samples(pixels, shuffled).clean_set())


def fit_of(count: int) -> CleanSet:
    return extracted().fit.take(count, seed=0)


@pytest.mark.usefixtures("brief")
def test_thirty_samples_are_enough_to_begin_and_fewer_are_not() -> None:
    assert extract(backdoored().suspect, fit_of(30)).record.samples == {"tuned": 20, "watched": 10}
    with pytest.raises(CleanSetError, match="29 clean samples to tune with.*leave 19"):
        extract(backdoored().suspect, fit_of(29))


def test_watching_too_large_a_share_is_refused() -> None:
    with pytest.raises(CleanSetError, match="lower watch=0.95"):
        extract(backdoored().suspect, extracted().fit, config=ExtractionConfig(watch=0.95))


@pytest.mark.parametrize(
    ("method", "bad"), [*((method, math.nan) for method in METHODS), ("shared trunk", math.inf)]
)
def test_broken_weights_are_named(method: str, bad: float) -> None:
    network = backdoored().suspect.copy().module
    with torch.no_grad():
        next(network.parameters())[0] = bad
    model: Model = backdoored().with_network(network)
    with pytest.raises(AuditError, match="outputs are not finite.*NaN or overflow"):
        extract(model.suspect, extracted().fit, config=METHODS[method])
