from __future__ import annotations

import pytest
import torch

from badexpert.strata import apportion, choose


@pytest.mark.parametrize(
    ("counts", "total", "spare", "sizes"),
    [
        ({0: 5, 1: 5, 2: 5, 3: 5}, 10, 1, [3, 3, 2, 2]),
        ({0: 90, 1: 10}, 10, 0, [9, 1]),
        ({0: 996, 1: 2, 2: 2}, 10, 1, [8, 1, 1]),
        ({0: 2, 1: 98}, 90, 1, [1, 89]),
        ({3: 4, 7: 4}, 8, 0, [4, 4]),
    ],
)
def test_shares_by_hand(counts, total, spare, sizes):
    assert list(apportion(counts, total, spare=spare).values()) == sizes


@pytest.mark.parametrize(
    ("counts", "total", "spare"), [({0: 1, 1: 5}, 3, 1), ({0: 5, 1: 5}, 1, 0), ({0: 2}, 3, 0)]
)
def test_what_cannot_be_shared(counts, total, spare):
    with pytest.raises(ValueError, match="cannot share"):
        apportion(counts, total, spare=spare)


def test_the_choice_depends_on_the_seed_and_looks_random():
    labels = torch.arange(200) % 2
    first, again, other = (choose(labels, {0: 50, 1: 30}, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert [int(first[labels == label].sum()) for label in (0, 1)] == [50, 30]
    halves = int(first[:100].sum()), int(first[100:].sum())
    assert min(halves) > 25
