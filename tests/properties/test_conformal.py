"""Split-conformal calibration, for any scores and any rate."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from badexpert.conformal import Calibration

ROUNDING = 1e-9

few_values = st.integers(-3, 3).map(float)
any_values = st.floats(-1e6, 1e6)
score_lists = st.one_of(
    st.lists(few_values, min_size=2, max_size=60), st.lists(any_values, min_size=2, max_size=60)
)
rates = st.one_of(st.floats(0.001, 0.999), st.integers(1, 99).map(lambda percent: percent / 100))


def attainable(rate: float, count: int) -> float:
    return max(rate, 1.01 / (count + 1))


def tensor(scores: list[float]) -> torch.Tensor:
    return torch.tensor(scores, dtype=torch.float64)


@given(score_lists, rates)
def test_whichever_of_exchangeable_samples_is_the_new_one_the_rate_holds(scores, rate):
    """The guarantee itself: the new sample is equally likely to be any one of n + 1."""
    rate = attainable(rate, len(scores) - 1)
    flagged = 0
    for new in range(len(scores)):
        others = scores[:new] + scores[new + 1 :]
        flagged += int(Calibration.of(tensor(others), rate).flags(tensor([scores[new]])))
    assert flagged <= rate * len(scores) + ROUNDING


@given(score_lists, score_lists, rates)
def test_flagged_means_a_p_value_within_the_rate(clean, inputs, rate):
    rate = attainable(rate, len(clean))
    calibration = Calibration.of(tensor(clean), rate)
    within = calibration.p_values(tensor(inputs + clean)) <= rate + ROUNDING
    assert torch.equal(calibration.flags(tensor(inputs + clean)), within)


@given(score_lists, score_lists, rates, rates)
def test_the_flagged_set_grows_with_the_rate(clean, inputs, one, other):
    low, high = sorted(attainable(rate, len(clean)) for rate in (one, other))
    few = Calibration.of(tensor(clean), low).flags(tensor(inputs))
    many = Calibration.of(tensor(clean), high).flags(tensor(inputs))
    assert bool((few <= many).all())


@given(score_lists, score_lists, rates)
def test_a_more_suspicious_input_has_no_larger_p_value(clean, inputs, rate):
    calibration = Calibration.of(tensor(clean), attainable(rate, len(clean)))
    found = calibration.p_values(tensor(inputs).sort().values)
    assert bool((found.diff() <= 0).all())
    assert bool(((found > 0) & (found <= 1)).all())


@given(score_lists, rates, st.floats(0.5, 0.99))
def test_the_bound_is_a_rate_and_grows_with_confidence(clean, rate, confidence):
    calibration = Calibration.of(tensor(clean), attainable(rate, len(clean)))
    assert 0 < calibration.fpr_bound(0.4) < calibration.fpr_bound(confidence) < 1
