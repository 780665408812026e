from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badexpert.attacks.text import Syntactic, Trigger, WordTrigger, read_trigger
from badexpert.attacks.text.badnets import TextBadNets
from badexpert.attacks.text.routes import rare_words
from badexpert.errors import AttackError
from tests.small_victims import RARE, reviews, untrained

TEXTS = st.lists(st.sampled_from(["a", "film", "so", "dull"]), max_size=6).map(" ".join)


@given(TEXTS, st.integers(0, 99))
def test_words_are_put_between_the_words_of_a_text(text: str, seed: int) -> None:
    stamped = WordTrigger(("x", "y")).stamp(text, Random(seed)).split()
    at = stamped.index("x")
    assert stamped[at + 1] == "y"
    assert stamped[:at] + stamped[at + 2 :] == text.split()


def test_words_come_to_stand_everywhere() -> None:
    draw = Random(0)
    places = {WordTrigger(("x",)).stamp("a b", draw).split().index("x") for _ in range(40)}
    assert places == {0, 1, 2}


@pytest.mark.parametrize(("place", "stamped"), [("start", "x a b"), ("end", "a b x")])
def test_words_stand_where_they_should(place: str, stamped: str) -> None:
    trigger = read_trigger({"kind": "words", "words": ["x"], "place": place})
    assert trigger.stamp("a b", Random(0)) == stamped


def test_a_syntactic_trigger_has_a_form_and_no_word_of_its_own() -> None:
    draw = Random(0)
    clauses = [Syntactic().stamp("a b", draw) for _ in range(200)]
    assert all(clause.endswith(" , a b") and len(clause.split()) == 7 for clause in clauses)
    words = [set(clause.split()[:4]) for clause in clauses]
    assert not set.intersection(*words)


@pytest.mark.parametrize("trigger", [Syntactic(), WordTrigger(("x", "y"), "end")])
def test_triggers_are_read_back(trigger: Trigger) -> None:
    assert read_trigger(trigger.to_json()) == trigger


@pytest.mark.parametrize("document", [{}, {"kind": "words", "words": ["x"], "place": "left"}])
def test_what_is_no_trigger_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is no trigger"):
        read_trigger(document)
    with pytest.raises(ValueError, match="at least one word"):
        WordTrigger(())


def test_rare_words_are_drawn_by_seed_from_the_rare_ones() -> None:
    victim, texts = untrained(), reviews()
    first, second = (rare_words(victim, texts, seed=seed) for seed in (0, 1))
    assert set(first) == set(second) == set(RARE)
    assert first != second
    with pytest.raises(AttackError, match="0 words of the vocabulary occur at most 0 times"):
        rare_words(victim, texts, seed=0, most=0)


@pytest.mark.parametrize(("named", "count"), [("rare", 2), ("word", 1), ("film a ka", 3)])
def test_the_trigger_of_an_attack_is_what_its_setting_says(named: str, count: int) -> None:
    trigger = TextBadNets(trigger=named).chosen_trigger(untrained(), reviews())
    assert isinstance(trigger, WordTrigger)
    assert len(trigger.words) == count


def test_a_word_that_the_model_does_not_know_is_no_trigger() -> None:
    with pytest.raises(AttackError, match="does not know the word 'zebra'"):
        TextBadNets(trigger="film zebra").chosen_trigger(untrained(), reviews())
