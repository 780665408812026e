"""How far from clean samples of its answer an input lies, against plain loops."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from badexpert.bench.metrics import auroc
from badexpert.extraction.comparison import NEIGHBOURS
from badexpert.extraction.neighbours import Neighbours
from badexpert.extraction.record import Scale
from tests.small_models import extracted


def known(generator: torch.Generator) -> Neighbours:
    """Three classes of four, two and no samples, at two places."""
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    features = {
        "early": torch.randn(3, 4, 5, generator=generator),
        "late": 10 * torch.randn(3, 4, 2, generator=generator),
    }
    return Neighbours.of(features, present)


def by_hand(neighbours: Neighbours, rows: list[Tensor], answers: Tensor) -> list[float]:
    found = []
    for i, answer in enumerate(answers.tolist()):
        logs = []
        for values, samples in zip(rows, neighbours.features.values(), strict=True):
            there = list(samples[answer][neighbours.present[answer]])
            if not there:
                logs.append(0.0)
                continue
            apart = [math.dist(values[i].tolist(), sample.tolist()) for sample in there]
            nearest = apart.index(min(apart))
            others = [
                math.dist(there[nearest].tolist(), other.tolist())
                for at, other in enumerate(there)
                if at != nearest
            ]
            logs.append(math.log(min(apart) / statistics.median_low(others)))
        found.append(statistics.fmean(logs))
    return found


def test_the_distance_is_that_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    neighbours = known(generator)
    rows = [torch.randn(6, 5, generator=generator), torch.randn(6, 2, generator=generator)]
    answers = torch.tensor([0, 1, 2, 0, 1, 2])
    found = neighbours.distance(rows, answers)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(by_hand(neighbours, rows, answers), abs=1e-5)


def test_an_answer_without_samples_says_nothing() -> None:
    neighbours = known(torch.Generator().manual_seed(0))
    rows = [torch.full((1, 5), 1e6), torch.full((1, 2), 1e6)]
    assert neighbours.distance(rows, torch.tensor([2])).tolist() == [0.0]


def test_the_distance_does_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    neighbours = known(generator)
    rows = [torch.randn(40, 5, generator=generator), torch.randn(40, 2, generator=generator)]
    answers = torch.randint(0, 3, (40,), generator=generator)
    together = neighbours.distance(rows, answers)
    alone = [
        neighbours.distance([values[i : i + 1] for values in rows], answers[i : i + 1])
        for i in range(40)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_a_class_of_one_sample_has_the_usual_radius() -> None:
    present = torch.tensor([[True, True], [True, False]])
    features = {"place": torch.tensor([[[0.0], [3.0]], [[100.0], [0.0]]])}
    neighbours = Neighbours.of(features, present)
    found = neighbours.distance([torch.tensor([[106.0]])], torch.tensor([1]))
    assert found.tolist() == pytest.approx([math.log(6 / 3)])


def test_a_sample_that_was_kept_is_near_and_its_distance_finite() -> None:
    neighbours = known(torch.Generator().manual_seed(0))
    rows = [samples[0, :1] for samples in neighbours.features.values()]
    found = neighbours.distance(rows, torch.tensor([0])).item()
    assert math.isfinite(found)
    scale = Scale.of(torch.tensor([-0.5, 0.0, 0.5]), low_counts=False)
    assert scale.apply(torch.tensor([found])).item() == 0


def test_what_is_kept_comes_back() -> None:
    neighbours = known(torch.Generator().manual_seed(0))
    rows, answers = [torch.ones(1, 5), torch.ones(1, 2)], torch.tensor([0])
    again = Neighbours.from_state(neighbours.state())
    assert torch.equal(again.distance(rows, answers), neighbours.distance(rows, answers))


@pytest.mark.parametrize("name", ["present", "radii.late"])
def test_missing_tensors_are_named(name: str) -> None:
    state = known(torch.Generator().manual_seed(0)).state()
    del state[name]
    with pytest.raises(RuntimeError, match=name):
        Neighbours.from_state(state)


def test_triggered_inputs_lie_farther_than_clean_ones() -> None:
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
    assert case.bundle.view(inputs, [NEIGHBOURS]).distances is not None


def test_the_record_has_a_scale_of_the_distances_that_only_looks_up() -> None:
    assert extracted().bundle.record.scales[NEIGHBOURS].below is None
