"""Clean texts split, shrink and are recognised again as clean images are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from badexpert.errors import CleanSetError
from badexpert.sources.texts import Text
from badexpert.textset import TextCleanSet


def labelled(count: int = 20) -> TextCleanSet:
    labels = [index % 4 == 0 for index in range(count)]
    return TextCleanSet.from_texts([f"t{i}" for i in range(count)], list(map(int, labels)))


def pairs(count: int = 10) -> TextCleanSet:
    return TextCleanSet.from_pairs([(f"p{i}", f"r{i}") for i in range(count)])


def test_a_split_is_disjoint_and_keeps_the_proportions() -> None:
    clean = labelled()
    first, second = clean.split(0.6, seed=1)
    assert {*first.texts(), *second.texts()} == set(clean.texts())
    assert (len(first), len(second)) == (12, 8)
    assert (int(first.labels.sum()), int(second.labels.sum())) == (3, 2)
    assert first.digest() != second.digest()
    assert clean.split(0.6, seed=1)[0].digest() == first.digest()


def test_batches_carry_the_labels_of_what_was_chosen() -> None:
    part = labelled().take(8, seed=0)
    seen = [
        (text, int(label))
        for batch in part.batches(3)
        for text, label in zip(batch.inputs, batch.labels, strict=True)
    ]
    assert [text for text, _ in seen] == [text.text for text in part.texts()]
    assert all(label == (int(text[1:]) % 4 == 0) for text, label in seen)


def test_pairs_are_split_as_one_kind() -> None:
    first, second = pairs().split(0.5, seed=0)
    assert first.responses
    assert first.gaps == ()
    assert (len(first), len(second)) == (5, 5)
    assert set(first.texts()) | set(second.texts()) == {Text(f"p{i}", f"r{i}") for i in range(10)}


def test_labels_say_how_many_classes_there_are_where_no_model_does() -> None:
    assert labelled().num_classes == 2
    assert TextCleanSet.from_texts(["a", "b"], [0, 2]).missing_classes == (1,)


def test_names_are_renumbered_as_the_model_counts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood,positive\nbad,negative\n", encoding="utf-8")
    index = {"positive": 0, "negative": 1}
    clean = TextCleanSet.open(tmp_path / "a.csv", class_index=index)
    assert clean.labels.tolist() == [0, 1]
    assert clean.class_names == {0: "positive", 1: "negative"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\na,1\nb,1\n", "samples of class 1 only"),
        ("text,label\na,0\nb,5\n", "labels 0 to 5, but the model has 2 classes"),
        ("text,id\na,0\nb,5\n", "neither labels nor responses"),
    ],
)
def test_unfit_sets_are_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(CleanSetError, match=words):
        TextCleanSet.open(tmp_path / "a.csv", num_classes=2)


def test_a_limit_keeps_the_proportions(tmp_path: Path) -> None:
    rows = "".join(f"t{i},{i % 4 == 0:d}\n" for i in range(40))
    (tmp_path / "a.csv").write_text("text,label\n" + rows, encoding="utf-8")
    clean = TextCleanSet.open(tmp_path / "a.csv", limit=8)
    assert torch.bincount(clean.labels).tolist() == [6, 2]
