"""How unlike the clean samples of its answer an input is, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from badexpert.bench.metrics import auroc
from badexpert.extraction.comparison import DISTANCE
from badexpert.extraction.gaussian import PRIOR, Gaussian
from badexpert.extraction.record import Scale
from tests.small_models import extracted

CLASSES = 4
"""Of which the last has no samples and the one before it a single one."""


def samples() -> tuple[Tensor, Tensor]:
    """Rows whose directions differ in variance, about means that lie apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 30 + [1] * 12 + [2])
    shape = torch.tensor([5.0, 1.0, 0.2])
    rows = torch.randn(len(labels), 3, generator=generator) * shape
    sizes = torch.tensor([1.0, 3.0, 1.0])[labels]
    return rows * sizes[:, None] + 10 * labels[:, None], labels


def by_hand(rows: Tensor, labels: Tensor, input: Tensor, answer: int) -> float:
    """The distance of one input, in numpy, by an inverse instead of a whitening."""
    x, y = rows.double().numpy(), labels.numpy()
    means = {c: x[y == c].mean(0) for c in set(y.tolist())}
    apart = np.stack([row - means[c] for row, c in zip(x, y.tolist(), strict=True)])
    covariance = ledoit_wolf(apart, assume_centered=True)[0] * len(x) / (len(x) - len(means))
    inverse = np.linalg.inv(covariance)
    lengths = [row @ inverse @ row / x.shape[1] for row in apart]
    mine = [length for length, c in zip(lengths, y.tolist(), strict=True) if c == answer]
    count = len(mine)
    variance = (sum(mine) + PRIOR) / (count - 1 + PRIOR) * (1 + 1 / count)
    away = input.double().numpy() - means[answer]
    return math.sqrt(away @ inverse @ away / x.shape[1] / variance)


def test_the_distance_is_that_of_plain_loops() -> None:
    rows, labels = samples()
    gaussian = Gaussian.of(("place",), rows, labels, CLASSES)
    inputs = torch.randn(9, 3, generator=torch.Generator().manual_seed(1)) * 8
    answers = torch.arange(9) % 3
    found = gaussian.distance(inputs, answers)
    assert found.dtype == torch.float64
    expected = [
        by_hand(rows, labels, row, c) for row, c in zip(inputs, answers.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_an_answer_without_samples_lies_at_the_usual_distance() -> None:
    gaussian = Gaussian.of(("place",), *samples(), CLASSES)
    far = torch.full((1, 3), 1e6)
    assert gaussian.distance(far, torch.tensor([3])).tolist() == [1.0]
    assert gaussian.distance(far, torch.tensor([0])).item() > 1e3


def test_new_samples_of_large_and_small_classes_lie_at_about_one() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(5).repeat_interleave(torch.tensor([200, 100, 50, 6, 3]))
    mixing = torch.randn(8, 8, generator=generator)
    rows = torch.randn(len(labels), 8, generator=generator) @ mixing
    gaussian = Gaussian.of(("place",), rows, labels, 5)
    for label in range(5):
        new = torch.randn(500, 8, generator=generator) @ mixing
        found = gaussian.distance(new, torch.full((500,), label))
        assert float(found.median()) == pytest.approx(1.0, abs=0.25)


def test_a_direction_that_never_varies_is_no_division_by_zero() -> None:
    rows, labels = samples()
    rows[:, 2] = 7.0
    found = Gaussian.of(("place",), rows, labels, CLASSES).distance(rows, labels)
    assert bool(found.isfinite().all())
    assert bool(
        Gaussian.of(("place",), torch.ones(5, 3), torch.arange(5), 5).whitening.isfinite().all()
    )


def test_what_is_kept_comes_back() -> None:
    gaussian = Gaussian.of(("tokens", "flatten"), *samples(), CLASSES)
    rows, answers = torch.ones(2, 3), torch.tensor([0, 1])
    again = Gaussian.from_state(gaussian.state())
    assert again.places == ("tokens", "flatten")
    assert torch.equal(again.distance(rows, answers), gaussian.distance(rows, answers))


@pytest.mark.parametrize("name", ["means", "spreads", "whitening"])
def test_missing_tensors_are_named(name: str) -> None:
    state = Gaussian.of(("tokens", "flatten"), *samples(), CLASSES).state()
    del state[f"tokens+flatten.{name}"]
    with pytest.raises(RuntimeError, match=name):
        Gaussian.from_state(state)


def test_triggered_inputs_are_less_like_clean_samples_than_clean_ones() -> None:
    case = extracted()
    far = case.bundle.view(case.model.triggered).distances
    near = case.bundle.view(case.model.clean_inputs).distances
    assert far is not None
    assert near is not None
    found = auroc(near, far)
    assert found is not None
    assert found > 0.9


def test_distances_are_only_taken_where_they_are_asked_for() -> None:
    case = extracted()
    inputs = case.model.clean_inputs[:3]
    assert case.bundle.view(inputs, ["shifted"]).distances is None
    assert case.bundle.view(inputs, [DISTANCE]).distances is not None


def test_a_short_distance_takes_nothing_from_the_score() -> None:
    assert extracted().bundle.record.scales[DISTANCE].below is None
    scale = Scale.of(torch.tensor([0.5, 1.0, 1.5]), low_counts=False)
    assert scale.apply(torch.tensor([0.0])).item() == 0
