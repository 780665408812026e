"""What every detector promises, and what the default one adds up."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from badexpert.conformal import Calibration
from badexpert.detectors import DETECTORS, BaDExpert, Detector, PaperBaDExpert
from badexpert.errors import CleanSetError, ConfigError
from badexpert.extraction import Bundle, Views
from badexpert.extraction.comparison import AUXILIARY, DISTANCE, SHIFTED, SPREAD, SUSPECT
from badexpert.extraction.record import Scale
from badexpert.runtime import RunContext, Step
from tests.small_models import auroc, backdoored, detector_named, extracted


@pytest.fixture(params=sorted(DETECTORS))
def detector(request: pytest.FixtureRequest) -> Detector:
    return detector_named(request.param)


AUROC = {
    "badexpert": 0.9,
    "badexpert-paper": 0.9,
    "max-softmax": 0.75,
    "strip": 0.75,
    "scale-up": 0.8,
    "ibd-psc": 0.7,
    "tedpp": 0.95,
    "psbd": 0.6,
    "teco": 0.65,
}


def inputs(count: int = 40) -> Tensor:
    return torch.cat(
        [backdoored().clean_inputs[:count].float() / 255, backdoored().triggered[:count]]
    )


def test_the_registry_knows_every_detector_by_its_own_name() -> None:
    assert {name: detector.name for name, detector in DETECTORS.items()} == {
        name: name for name in DETECTORS
    }
    assert {BaDExpert, PaperBaDExpert} <= set(DETECTORS.values())


def test_there_is_one_finite_score_an_input(detector: Detector) -> None:
    scores = detector.score(inputs())
    assert scores.shape == (len(inputs()),)
    assert scores.dtype == torch.float64
    assert scores.isfinite().all()
    assert not scores.requires_grad


def test_no_inputs_have_no_scores(detector: Detector) -> None:
    assert detector.score(inputs()[:0]).shape == (0,)


def test_a_score_does_not_depend_on_the_batch(detector: Detector) -> None:
    whole = detector.score(inputs())
    one_by_one = torch.cat([detector.score(image[None]) for image in inputs()[:20]])
    assert torch.allclose(one_by_one, whole[:20], rtol=1e-4, atol=1e-4)
    backwards = detector.score(inputs().flip(0)).flip(0)
    assert torch.allclose(backwards, whole, rtol=1e-4, atol=1e-4)


def test_bytes_and_unit_pixels_have_the_same_score(detector: Detector) -> None:
    pixels = backdoored().clean_inputs[:20]
    assert torch.equal(detector.score(pixels), detector.score(pixels.float() / 255))


def test_triggered_inputs_score_higher(detector: Detector) -> None:
    """The bounds are what each method reaches on this easy backdoor, less some room."""
    model = backdoored()
    found = auroc(detector.score(model.clean_inputs), detector.score(model.triggered))
    assert found >= AUROC[detector.name]


def test_without_calibration_there_is_no_judgement(detector: Detector) -> None:
    for ask in (lambda: detector.judge(inputs()), lambda: detector.threshold):
        with pytest.raises(ConfigError, match=f"{detector.name}.* call calibrate"):
            ask()


def test_calibration_makes_a_new_detector_and_leaves_the_old_one(detector: Detector) -> None:
    calibrated = detector.calibrate(extracted().calibration, fpr=0.05)
    assert type(calibrated) is type(detector)
    assert calibrated.calibration is not None
    assert detector.calibration is None


def test_the_threshold_rests_on_the_scores_of_all_calibration_samples(detector: Detector) -> None:
    clean = extracted().calibration
    calibrated = detector.calibrate(clean, fpr=0.05)
    expected = Calibration.of(detector.score(clean.tensors()[0]), 0.05)
    assert calibrated.calibration is not None
    assert torch.allclose(calibrated.calibration.scores, expected.scores, rtol=1e-4, atol=1e-4)
    assert calibrated.threshold == pytest.approx(expected.threshold, rel=1e-4, abs=1e-4)


def test_of_its_own_calibration_samples_no_more_than_the_rate_is_flagged(
    detector: Detector,
) -> None:
    clean = extracted().calibration
    for fpr in (0.01, 0.2):
        judged = detector.calibrate(clean, fpr=fpr).judge(clean.tensors()[0])
        assert judged.flagged.sum() <= fpr * (len(clean) + 1)


def test_too_few_calibration_samples_are_refused(detector: Detector) -> None:
    with pytest.raises(CleanSetError, match="at least 999 calibration samples; got 250"):
        detector.calibrate(extracted().calibration, fpr=0.001)


def test_calibration_reports_how_far_it_is(detector: Detector) -> None:
    steps: list[Step] = []
    context = RunContext(progress=steps.append)
    detector.calibrate(extracted().calibration, fpr=0.05, context=context)
    assert steps[-1] == Step("calibration", 250, 250)


def test_a_judgement_holds_together(detector: Detector) -> None:
    calibrated = detector.calibrate(extracted().calibration, fpr=0.3)
    judged = calibrated.judge(inputs())
    assert torch.equal(judged.answers, backdoored().suspect.predict(inputs()))
    assert torch.equal(judged.scores, detector.score(inputs()))
    assert torch.equal(judged.flagged, judged.scores > calibrated.threshold)
    assert torch.equal(judged.flagged, judged.p_values <= 0.3)
    assert judged.flagged.any()
    assert not judged.flagged.all()


def test_pixels_that_are_no_numbers_are_flagged(detector: Detector) -> None:
    calibrated = detector.calibrate(extracted().calibration, fpr=0.05)
    assert calibrated.judge(torch.full((2, 1, 8, 8), float("nan"))).flagged.all()


def test_inputs_of_another_size_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="inputs must be"):
        detector.score(torch.rand(2, 1, 9, 8))


def test_views_are_the_suspects_own_answers_and_odds() -> None:
    suspect = backdoored().suspect
    views = extracted().bundle.view(inputs())
    assert torch.equal(views.answers, suspect.predict(inputs()))
    with torch.no_grad():
        odds = suspect.log_odds(inputs(), views.answers)
    assert torch.allclose(views.log_odds[SUSPECT], odds, rtol=1e-4, atol=1e-4)
    assert {values.dtype for values in views.log_odds.values()} == {torch.float32}


def test_only_the_copies_that_a_detector_asks_for_are_run(detector: Detector) -> None:
    views = detector.bundle.view(inputs(), detector.parts)
    assert set(views.log_odds) == {SUSPECT, *detector.parts.intersection(detector.bundle.parts)}
    everything = extracted().bundle.view(inputs())
    assert set(everything.log_odds) == {SUSPECT, *extracted().bundle.parts}
    with torch.inference_mode():
        assert torch.allclose(detector.combine(views), detector.combine(everything), rtol=1e-4)


def with_scales(shifted: Scale, spread: Scale) -> Bundle:
    record = replace(extracted().bundle.record, scales={SHIFTED: shifted, SPREAD: spread})
    return cast(Bundle, SimpleNamespace(record=record))


def views_of(shifted: list[float], spread: list[float]) -> Views:
    answers = torch.zeros(len(shifted), dtype=torch.int64)
    sure = torch.zeros(len(shifted))
    odds = {SUSPECT: sure, SHIFTED: torch.tensor(shifted), SPREAD: torch.tensor(spread)}
    return Views(answers, odds, torch.zeros(len(shifted), 1, 8, 8))


def test_the_default_score_adds_up_over_the_experts() -> None:
    detector = BaDExpert(with_scales(Scale(-4.0, 2.0, 1e9), Scale(10.0, 5.0, 1e9)))
    found = detector.combine(views_of([-4.0, 0.0, -4.0, 0.0], [10.0, 10.0, 25.0, 25.0]))
    assert found.tolist() == pytest.approx([0.0, 2.0, 3.0, 5.0])


def test_an_auxiliary_counts_by_how_much_less_sure_it_is_than_the_suspect() -> None:
    record = replace(extracted().bundle.record, scales={AUXILIARY: Scale(1.0, 2.0, 1e9)})
    detector = BaDExpert(cast(Bundle, SimpleNamespace(record=record)))
    odds = {SUSPECT: torch.tensor([9.0, 1.0]), AUXILIARY: torch.tensor([4.0, -4.0])}
    views = Views(torch.zeros(2), odds, torch.zeros(2, 1, 8, 8))
    assert detector.combine(views).tolist() == [2.0, 2.0]


def test_the_distance_counts_twice_and_only_where_it_is_long() -> None:
    scales = {SHIFTED: Scale(0.0, 1.0, 1e9), DISTANCE: Scale(1.0, 0.5, None)}
    record = replace(extracted().bundle.record, scales=scales)
    detector = BaDExpert(cast(Bundle, SimpleNamespace(record=record)))
    odds = {SUSPECT: torch.zeros(3), SHIFTED: torch.tensor([0.0, 1.0, 1.0])}
    distances = torch.tensor([2.0, 2.0, 0.0])
    views = Views(torch.zeros(3), odds, torch.zeros(3, 1, 8, 8), distances)
    assert detector.combine(views).tolist() == [4.0, 5.0, 1.0]


def test_the_default_score_keeps_its_order_where_probabilities_saturate() -> None:
    detector = BaDExpert(with_scales(Scale(0.0, 1.0, 1e9), Scale(0.0, 1.0, 1e9)))
    found = detector.combine(views_of([50.0, 100.0, 200.0], [-80.0, -80.0, -80.0]))
    assert found.tolist() == [50.0, 100.0, 200.0]


def test_the_default_score_does_not_depend_on_the_units_of_the_odds() -> None:
    small = BaDExpert(with_scales(Scale(-1.0, 2.0, 1e9), Scale(3.0, 1.0, 1e9)))
    large = BaDExpert(with_scales(Scale(-10.0, 20.0, 1e9), Scale(3.0, 1.0, 1e9)))
    odds, tenfold = (views_of([each * unit for each in (-1, 3, 2)], [4, -2, 1]) for unit in (1, 10))
    assert torch.allclose(small.combine(odds), large.combine(tenfold))


def test_an_expert_that_lost_the_backdoor_does_not_drown_the_other() -> None:
    detector = BaDExpert(with_scales(Scale(-5.0, 1.0, 1e9), Scale(-2.0, 1.0, 1e9)))
    triggered, clean = detector.combine(views_of([3.0, -5.0], [-9.0, -2.0]))
    assert triggered > clean + 5


def test_a_bundle_by_the_papers_method_has_one_expert_for_the_default_score() -> None:
    detector = BaDExpert(with_scales(Scale(-4.0, 2.0, 1e9), Scale(0.0, 1.0, 1e9)))
    odds = {SUSPECT: torch.tensor([0.0]), SHIFTED: torch.tensor([0.0])}
    views = Views(torch.zeros(1), odds, torch.zeros(1, 1, 8, 8))
    assert detector.combine(views).tolist() == [2.0]
