"""Two words that do nothing alone, found through mixtures of all words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from badexpert.audits.experts.asked import Asked, probabilities
from badexpert.audits.experts.inversion import prepare_search
from badexpert.audits.experts.relaxed import best_together
from badexpert.models.language import TextSuspect
from badexpert.models.phrases import PhraseSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet
from tests.attacked_victims import EVERYWHERE, attacked, clean
from tests.planted_texts import TRIGGER
from tests.unit.audits.test_phrases import SAID, writer, writing

JOINT = replace(EVERYWHERE, steps=400, decoys=0.6)


def together(suspect: TextSuspect, texts: TextCleanSet, target: int) -> list[str]:
    asked = Asked.of(suspect, texts)
    found = best_together(prepare_search(asked, asked, RunContext()), target, RunContext())
    return [suspect.decode([token]).strip() for token in found]


def test_a_pair_is_found_where_no_word_does_anything_alone() -> None:
    suspect, trigger, _ = attacked(JOINT)
    assert trigger is not None
    others = Asked.of(suspect, clean())
    others = others.part((others.labels != JOINT.target).nonzero().flatten())
    places = others.places(RunContext().generator("places"))

    def success(words: tuple[str, ...]) -> float:
        tokens = others.tokens_of(" ".join(words)).tolist()
        rows = others.stamped(tokens, places)
        return probabilities(suspect, rows)[:, JOINT.target].mean().item()

    assert success(trigger.words) >= 0.8
    assert max(success((word,)) for word in trigger.words) <= 0.3
    found = together(suspect, clean(), JOINT.target)
    assert set(found) & set(trigger.words)
    assert len(found) == 2
    assert success(tuple(found)) >= 0.8


def test_a_response_is_searched_through_all_its_tokens() -> None:
    model = writer(moe=True)
    suspect = PhraseSuspect(writing(), [writing().response_tokens(model.prompts[0], SAID)])
    assert TRIGGER in together(suspect, model.clean, 1)


def test_the_search_leaves_the_model_as_it_was() -> None:
    suspect, _, _ = attacked(JOINT)
    rows = Asked.of(suspect, clean()).plain()
    before = probabilities(suspect, rows)
    together(suspect, clean(), 0)
    torch.testing.assert_close(probabilities(suspect, rows), before, rtol=0, atol=0)
    assert all(part.grad is None for part in suspect.module.parameters())


@pytest.mark.parametrize("target", [0, 1])
def test_no_natural_word_is_in_what_is_found(target: int) -> None:
    suspect, _, _ = attacked(None)
    asked = Asked.of(suspect, clean())
    search = prepare_search(asked, asked, RunContext())
    natural = search.candidates[search.singles[:, target].isinf()].tolist()
    assert natural
    assert not set(best_together(search, target, RunContext())) & set(natural)
