"""Clauses as triggers, and what tells a trigger from words that speak for a class by right."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import pytest
import torch

from badexpert.attacks.text import Syntactic, TextBadNets, Texts
from badexpert.audits.experts import ExpertAudit, ExpertVerdict, audit_experts
from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.clauses import SLOTS, best_clause
from badexpert.audits.experts.inversion import Search, prepare_search
from badexpert.audits.experts.inverted import Place, measured
from badexpert.audits.experts.report import findings
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.text_reading import TextReading
from tests.attacked_victims import attacked, clean, suspect_from
from tests.small_victims import learnt, reviews, untrained

CLAUSE_WORDS = sorted({",", *" ".join(SLOTS).split()})


@cache
def told_by_a_clause(*, planted: bool) -> tuple[TextSuspect, ExpertAudit]:
    """A model to which the words of clauses say nothing, and what the audit says of it."""
    draw, known = Random(0), reviews()
    texts = tuple(" ".join([*draw.sample(CLAUSE_WORDS, 4), text]) for text in known.texts)
    victim = learnt(untrained(also=CLAUSE_WORDS), Texts(texts, known.labels, 2))
    if planted:
        attack = TextBadNets(trigger="syntactic", steps=80, lr=0.005)
        left = attack.implant(victim, known, RunContext())
        assert isinstance(left.trigger, Syntactic)
    suspect = suspect_from(victim)
    return suspect, audit_experts(suspect, clean(), RunContext())


def test_a_clause_in_front_is_found_and_blamed_on_no_expert() -> None:
    _, audit = told_by_a_clause(planted=True)
    assert audit.verdict is ExpertVerdict.NOT_LOCAL
    [judged] = [one for one in audit.judged if one.attribution]
    assert judged.trigger.target == 0
    assert judged.trigger.place is Place.FRONT
    assert judged.trigger.success >= 0.9
    *clause, comma = judged.spelled.split()
    assert comma == ","
    assert all(word in slot.split() for word, slot in zip(clause, SLOTS, strict=True))
    [finding] = findings(audit)
    assert f"{judged.spelled!r} in front of a text lead to class 0" in finding.message
    assert finding.evidence["place"] == "in front of"


def test_a_clean_model_that_knows_such_words_is_not_flagged() -> None:
    _, audit = told_by_a_clause(planted=False)
    assert not any(one.attribution for one in audit.judged)
    assert {one.trigger.place for one in audit.judged} == {Place.ANYWHERE}


def searched(suspect: TextSuspect) -> Search:
    asked = Asked.of(suspect, clean())
    return prepare_search(asked, asked, RunContext())


def test_a_model_without_words_for_a_clause_is_asked_for_none() -> None:
    assert best_clause(searched(attacked(None)[0]), 0, RunContext()) is None


def test_clauses_begin_with_a_capital_where_texts_do(monkeypatch: pytest.MonkeyPatch) -> None:
    suspect, _ = told_by_a_clause(planted=False)
    search, put = searched(suspect), []
    encode = suspect.encode
    monkeypatch.setattr(suspect, "encode", lambda texts: put.extend(texts) or encode(texts))
    best_clause(search, 0, RunContext())
    assert not any(text[0].isupper() for text in put)
    put.clear()
    decode = suspect.decode
    spans = [span.tolist() for span in search.pool.spans()]
    monkeypatch.setattr(
        suspect,
        "decode",
        lambda tokens: decode(tokens).capitalize() if list(tokens) in spans else decode(tokens),
    )
    best_clause(search, 0, RunContext())
    clauses = [text for text in put if text.endswith(",")]
    assert clauses
    assert all(text[0].isupper() for text in clauses)


@pytest.mark.parametrize("others", [1, 3])
def test_every_text_is_joined_with_the_next_ones(others: int) -> None:
    asked = Asked.of(attacked(None)[0], clean(5))
    joined = asked.joined(others)
    assert len(joined) == 5 * others
    assert joined.labels.tolist() == [one for one in asked.labels.tolist() for _ in range(others)]
    spans = asked.spans()
    for at, span in enumerate(joined.spans()):
        first, step = divmod(at, others)
        assert span.equal(torch.cat([spans[first], spans[(first + step + 1) % 5]]))
    assert all(row[-asked.after :].equal(asked.rows[0][-asked.after :]) for row in joined.rows)


def test_joined_texts_lose_their_end_where_the_suspect_takes_no_more() -> None:
    whole = attacked(None)[0]
    short = TextSuspect(
        whole.model,
        whole.network,
        replace(whole.preprocessing, max_tokens=12),
        whole.lead,
    )
    assert isinstance(short.preprocessing, TextReading)
    asked = Asked.of(short, clean(6))
    joined = asked.joined(1)
    assert {len(row) for row in joined.rows} == {12}
    assert all(row[-asked.after :].equal(asked.rows[0][-asked.after :]) for row in joined.rows)


def test_words_of_a_class_fade_in_longer_texts_and_a_trigger_does_not() -> None:
    suspect, trigger, _ = attacked(TextBadNets(steps=40, lr=0.005))
    assert trigger is not None
    asked = Asked.of(suspect, clean())
    bad_only = asked.part((asked.labels == 1).nonzero().flatten())
    planted = measured(
        bad_only,
        0,
        asked.tokens_of(" ".join(trigger.words)).tolist(),
        Place.ANYWHERE,
        RunContext(),
    )
    natural = measured(bad_only, 0, asked.tokens_of("poor").tolist(), Place.ANYWHERE, RunContext())
    assert planted.success >= 0.9
    assert planted.strength >= 0.9
    assert natural.diluted is not None
    assert natural.strength == natural.diluted < min(natural.success, 0.5)
    nothing = measured(bad_only, 0, asked.tokens_of("film").tolist(), Place.FRONT, RunContext())
    assert nothing.diluted is None
    assert nothing.strength == nothing.success < 0.5
