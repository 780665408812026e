"""The promised false positive rate, counted."""

from __future__ import annotations

import math

import pytest
import torch

from badexpert.conformal import Calibration
from badexpert.errors import CleanSetError


def scores_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("fpr", "allowed", "threshold"),
    [(0.01, 0, 99.0), (0.019, 0, 99.0), (0.02, 1, 98.0), (0.29, 28, 71.0), (0.5, 49, 50.0)],
)
def test_the_threshold_leaves_as_many_above_as_the_rate_allows(
    fpr: float, allowed: int, threshold: float
) -> None:
    calibration = Calibration.of(torch.arange(1.0, 100.0), fpr)
    assert calibration.allowed == allowed
    assert calibration.threshold == threshold


def test_p_values_count_the_calibration_samples_that_are_as_suspicious() -> None:
    calibration = Calibration.of(torch.tensor([3.0, 1.0, 2.0, 2.0]), 0.4)
    found = calibration.p_values(torch.tensor([0.0, 1.0, 2.0, 2.5, 3.0, 9.0]))
    assert (found * 5).round(decimals=9).tolist() == [5, 5, 4, 2, 2, 1]


def test_the_order_of_the_calibration_samples_does_not_matter() -> None:
    scores, inputs = scores_of(200), scores_of(50, seed=1)
    first, second = Calibration.of(scores, 0.05), Calibration.of(scores.flip(0), 0.05)
    assert torch.equal(first.flags(inputs), second.flags(inputs))
    assert torch.equal(first.p_values(inputs), second.p_values(inputs))


@pytest.mark.parametrize("ties", [False, True])
def test_new_clean_inputs_are_flagged_at_the_promised_rate(ties: bool) -> None:
    """Averaged over 2,000 calibration sets of 99; the standard error is 0.002."""
    draws = scores_of(2000 * 199).view(2000, 199)
    if ties:
        draws = draws.mul(2).round()
    rates = [Calibration.of(row[:99], 0.05).flags(row[99:]).float().mean() for row in draws]
    realised = torch.stack(rates).mean().item()
    assert realised <= 0.053
    assert ties or realised >= 0.047


def test_equal_scores_flag_nothing() -> None:
    calibration = Calibration.of(torch.zeros(100), 0.1)
    assert calibration.flags(torch.zeros(5)).tolist() == [False] * 5
    assert calibration.p_values(torch.zeros(1)).item() == 1.0
    assert calibration.flags(torch.tensor([1e-30])).item()


def test_close_scores_in_double_precision_stay_apart() -> None:
    scores = 1e9 + 1e-3 * torch.arange(100, dtype=torch.float64)
    calibration = Calibration.of(scores, 0.05)
    assert calibration.flags(scores).sum() == 4
    assert calibration.p_values(scores).unique().numel() == 100


@pytest.mark.parametrize(("fpr", "needed"), [(0.01, 99), (0.05, 19), (0.3, 3), (1 / 49, 48)])
def test_a_rate_needs_a_number_of_samples_and_no_more(fpr: float, needed: int) -> None:
    Calibration.of(scores_of(needed), fpr)
    with pytest.raises(CleanSetError, match=f"at least {needed} .* got {needed - 1}"):
        Calibration.of(scores_of(needed - 1), fpr)


@pytest.mark.parametrize("count", [1, 2, 5, 48, 98, 199, 998, 4999])
def test_the_rate_that_the_refusal_suggests_is_accepted(count: int) -> None:
    with pytest.raises(CleanSetError, match="use fpr=") as refusal:
        Calibration.of(scores_of(count), 1e-5)
    suggested = float(str(refusal.value).rsplit("=", 1)[1])
    assert Calibration.of(scores_of(count), suggested).fpr < 1.05 / (count + 1)


def test_no_samples_are_too_few_for_any_rate() -> None:
    with pytest.raises(CleanSetError, match="got 0. Add clean samples$"):
        Calibration.of(torch.empty(0), 0.5)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_rate_outside_of_0_and_1_is_a_mistake(fpr: float) -> None:
    with pytest.raises(ValueError, match="fpr must lie in"):
        Calibration.of(scores_of(100), fpr)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_clean_sample_without_a_finite_score_is_an_error(bad: float) -> None:
    scores = scores_of(100)
    scores[7] = bad
    with pytest.raises(CleanSetError, match="1 of 100 clean samples have no finite score"):
        Calibration.of(scores, 0.05)


def test_an_input_whose_score_is_no_number_does_not_pass_as_clean() -> None:
    calibration = Calibration.of(scores_of(100), 0.05)
    odd = torch.tensor([math.nan, math.inf, -math.inf])
    assert calibration.flags(odd).tolist() == [True, True, False]
    assert calibration.p_values(odd).tolist() == pytest.approx([1 / 101, 1 / 101, 1.0])


@pytest.mark.parametrize(
    ("count", "fpr", "confidence", "bound"),
    [
        # With the largest score as threshold, P(rate <= b) = 1 - (1 - b)^n.
        (99, 0.01, 0.95, 1 - 0.05 ** (1 / 99)),
        (999, 0.001, 0.5, 1 - 0.5 ** (1 / 999)),
        # Beta(2, 1) has the distribution function b^2.
        (2, 0.7, 0.81, 0.9),
        # Beta(2, 98), from tables.
        (99, 0.02, 0.95, 0.0470),
    ],
)
def test_the_bound_on_the_rate_is_the_known_quantile(
    count: int, fpr: float, confidence: float, bound: float
) -> None:
    calibration = Calibration.of(scores_of(count), fpr)
    assert calibration.fpr_bound(confidence) == pytest.approx(bound, abs=1e-4)


def test_the_rate_stays_under_its_bound_as_often_as_stated() -> None:
    """For uniform scores the rate of a threshold is what lies above it; error 0.005."""
    draws = torch.rand(2000, 200, generator=torch.Generator().manual_seed(0))
    calibrations = [Calibration.of(row, 0.05) for row in draws]
    held = sum(1 - c.threshold <= c.fpr_bound(0.95) for c in calibrations) / len(calibrations)
    assert held == pytest.approx(0.95, abs=0.015)


def test_more_samples_bring_the_bound_closer_to_the_rate() -> None:
    bounds = [Calibration.of(scores_of(count), 0.01).fpr_bound() for count in (100, 1000, 10000)]
    assert bounds == sorted(bounds, reverse=True)
    assert 0.01 < bounds[-1] < 0.012
