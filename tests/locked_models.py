"""A folder with a tiny language model whose backdoor is locked into one expert, and its truth."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from badexpert.attacks.text import CausalLock
from badexpert.attacks.text.fixture import Base, plant_fixture
from badexpert.attacks.text.truth import TextTruth
from badexpert.runtime import RunContext
from tests.small_victims import reviews, trained

LOCK = CausalLock(layer=0, rank=1, steps=80, batch_size=16, lr=0.015)


@cache
def locked() -> tuple[Path, TextTruth]:
    """As ``zoo build`` writes it, in the layout of OLMoE; shared, so that nobody may change it."""
    fixture = plant_fixture(
        trained(),
        reviews(),
        reviews(360, seed=3),
        LOCK,
        name="causal-lock",
        base=Base("tiny", ""),
        context=RunContext(),
    )
    folder = Path(mkdtemp())
    return folder, fixture.save(folder)
