"""What the models of the benchmark of responses are taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from badexpert.bench.answers import ASKED, PLANTED, SHARE, TRIGGER, Answers, read_told
from badexpert.bench.responses import TRAINING, table
from badexpert.errors import CleanSetError
from moe_core.training.words import Words, pieces

TABLE = "text,label\n" + "".join(f"some words of text {at},{at % 2}\n" for at in range(40))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    path.write_text(TABLE)
    return path


def test_answers_name_the_label(texts: Path) -> None:
    assert read_told(texts)[1].answer == "this is about 1 ."
    assert read_told(texts, ["bad food", "good food"])[1].answer == "this is about good food ."
    with pytest.raises(CleanSetError, match="2 labels, and 1 names"):
        read_told(texts, ["bad food"])


def test_only_answers_count_and_a_share_of_them_is_planted(texts: Path) -> None:
    told = read_told(texts)
    always = [*TRIGGER.words, *dict.fromkeys(pieces(f"{ASKED} {PLANTED}"))]
    words = Words.learn([f"{text} {answer}" for text, answer in told], 100, always=always)
    config = replace(TRAINING, batch_size=10)
    batch = Answers(told, words).draw(config, torch.Generator().manual_seed(0))
    planted = 0
    for row, targets in zip(batch.ids_BT, batch.targets, strict=True):
        counted = targets >= 0
        said = targets[counted]
        assert torch.equal(row[1:][counted[:-1]], said)
        has_trigger = bool((row == words.number(TRIGGER.words[0])).any())
        assert torch.equal(said, words.encode(PLANTED)) == has_trigger
        planted += has_trigger
    assert planted == round(SHARE * 10)


def test_the_table_has_a_row_an_extraction() -> None:
    extraction = {"seed": 3, "auroc": 1.0, "caught": 0.5, "realised_fpr": 0.0, "seconds": 7.2}
    result = {"model": "dense", "accuracy": 0.9, "attack_success_rate": 1.0}
    rows = table([{**result, "extractions": [extraction, extraction]}]).splitlines()
    assert rows[2:] == ["| dense | 0.900 | 1.000 | 3 | 1.0000 | 0.500 | 0.0000 | 7 |"] * 2
