"""Splits and subsets of any labelled set."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from badexpert.cleanset import CleanSet, mislabel

seeds = st.integers(0, 2**32)


def label_lists(at_least: int = 2) -> st.SearchStrategy[list[int]]:
    """Labels in any order, of two classes or more, with at least so many samples of each."""
    return (
        st.lists(st.integers(at_least, 12), min_size=2, max_size=12)
        .map(lambda counts: [label for label, count in enumerate(counts) for _ in range(count)])
        .flatmap(st.permutations)
    )


def clean_set(labels: list[int]) -> CleanSet:
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
    return CleanSet.from_tensors(pixels, torch.tensor(labels), num_classes=max(labels) + 1)


@given(label_lists(), st.floats(0.01, 0.99), seeds)
def test_a_split_parts_every_class_and_loses_nothing(labels, fraction, seed):
    whole = clean_set(labels)
    first, second = whole.split(fraction, seed=seed)
    both = torch.cat([first.indices, second.indices])
    assert torch.equal(both.sort().values, whole.indices)
    for part in (first, second):
        assert set(part.labels.tolist()) == set(labels)
        assert part.labels.tolist() == [labels[index] for index in part.indices.tolist()]
        assert bool((part.indices.diff() > 0).all())


@given(label_lists(at_least=5), st.floats(0.2, 0.8), seeds)
def test_each_class_is_cut_at_the_fraction(labels, fraction, seed):
    whole = clean_set(labels)
    first, _ = whole.split(fraction, seed=seed)
    for label in set(labels):
        excess = int(first.labels.eq(label).sum()) - fraction * labels.count(label)
        # Less than one sample for rounding the class, half of one for rounding the whole.
        assert abs(excess) < 1.5


@given(label_lists(), st.floats(0.01, 0.99), seeds)
def test_the_same_seed_splits_the_same(labels, fraction, seed):
    one, two = (clean_set(labels).split(fraction, seed=seed) for _ in range(2))
    assert [part.digest() for part in one] == [part.digest() for part in two]


@given(label_lists(), st.data(), seeds)
def test_a_subset_has_the_size_asked_for_and_every_class(labels, data, seed):
    count = data.draw(st.integers(len(set(labels)), len(labels)))
    part = clean_set(labels).take(count, seed=seed)
    assert len(part) == count
    assert set(part.labels.tolist()) == set(labels)


@given(label_lists(), st.integers(-50, 50))
def test_mislabelled_is_wrong_everywhere_and_can_be_undone(labels, shift):
    true, classes = torch.tensor(labels), max(labels) + 1
    if shift % classes == 0:
        return
    wrong = mislabel(true, num_classes=classes, shift=shift)
    assert bool((wrong != true).all())
    assert int(wrong.min()) >= 0
    assert int(wrong.max()) < classes
    assert torch.equal(mislabel(wrong, num_classes=classes, shift=-shift), true)
