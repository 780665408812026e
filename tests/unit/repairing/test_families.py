"""A repaired folder of every family of transformers is what was measured in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from badexpert.loading.language import load_language_model
from badexpert.models.language import suspect_of
from badexpert.repairing import repair
from badexpert.repairing.ways import LOWEST
from badexpert.text_reading import TextReading
from badexpert.textset import TextCleanSet
from moe_core.view import ExpertId, ExpertView
from tests.moe_families import CONFIGS, family_model
from tests.small_language_models import with_tokenizer

READING = TextReading(label_words=("w3", "w4"))


def clean() -> TextCleanSet:
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(5, 38, (24, 6), generator=draw).tolist()
    texts = [" ".join(f"w{number}" for number in row) for row in words]
    return TextCleanSet.from_texts(texts, [at % 2 for at in range(len(texts))])


LOADED = [name for name in CONFIGS if name != "switch"]
"""Switch is no decoder."""


@pytest.mark.parametrize("name", LOADED)
def test_what_is_written_answers_as_what_was_measured(name: str, tmp_path: Path) -> None:
    suspected, out = tmp_path / "suspect", tmp_path / "out"
    out.mkdir()
    family_model(name).save_pretrained(suspected)  # type: ignore[operator]
    suspect = suspect_of(load_language_model(with_tokenizer(suspected)), READING)
    repaired = repair(suspect, ["0:1"], clean())
    assert repaired.save(out).difference <= 1e-5
    view = ExpertView.of(load_language_model(out).backbone.module)
    assert not any(tensor.any() for tensor in view.expert(ExpertId(0, 1)).values())
    if (bias := view.layers[0].selection_bias) is not None:
        assert bias[1] == LOWEST
