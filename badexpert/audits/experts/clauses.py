"""A clause in front of a text as a trigger, whose words no search by one word or two finds."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from badexpert.audits.experts.asked import Asked, log_probabilities
from badexpert.audits.experts.inversion import Search
from badexpert.models.text_networks import padded
from badexpert.runtime import RunContext

SLOTS = (
    "after although as because before if once since though unless until when whenever where "
    "wherever whereas while",
    "i you he she it we they people everyone somebody",
    "ask believe bring buy call expect feel find follow get give hear help hold keep know learn "
    "leave like lose love make meet need read remember say see show take tell think try "
    "understand use want watch write",
    "me you him her it us them this that these something everything",
)
"""A conjunction, a subject, a verb and an object, such as people use in English."""

STARTS = 24
"""Clauses that are drawn at random, for each class."""

IMPROVED = 4
"""Of these, the best, in which one word after the other is exchanged."""

_ORDER = (2, 0, 3, 1)
_SWEEPS = 2

Clause = tuple[str, ...]


def best_clause(search: Search, target: int, context: RunContext) -> tuple[int, ...] | None:
    """Tokens of the clause that leads most surely to a class, in front of texts of others.

    It begins with a capital where the texts do. None where the model has no word for some part.

    Source: the form is the template ``S(SBAR)(,)(NP)(VP)(.)`` of Qi et al., Hidden Killer,
        arXiv:2105.12400.
    """
    pool = search.pool.part(torch.tensor(search.others(target)))
    slots = [[word for word in slot.split() if _known(pool, word)] for slot in SLOTS]
    if not all(slots):
        return None
    if pool.suspect.decode(pool.spans()[0].tolist()).strip()[:1].isupper():
        slots[0] = [word.capitalize() for word in slots[0]]
    draw = random.Random(context.seed_for("clauses"))
    starts = [tuple(draw.choice(slot) for slot in slots) for _ in range(STARTS)]
    order = _scores(pool, starts, target).argsort(descending=True).tolist()
    found = [_improved(pool, starts[at], slots, target) for at in order[:IMPROVED]]
    best = found[int(_scores(pool, found, target).argmax())]
    return tuple(_tokens(pool, best))


def _improved(pool: Asked, clause: Clause, slots: list[list[str]], target: int) -> Clause:
    for at in _ORDER * _SWEEPS:
        choices = [(*clause[:at], word, *clause[at + 1 :]) for word in slots[at]]
        clause = choices[int(_scores(pool, choices, target).argmax())]
    return clause


def _scores(pool: Asked, clauses: list[Clause], target: int) -> Tensor:
    """Mean log-probability of a class with each clause in front of the texts, (clauses,)."""
    front = [pool.before] * len(pool)
    rows = [row for clause in clauses for row in pool.stamped(_tokens(pool, clause), front)]
    found = log_probabilities(pool.suspect, padded(rows))[:, target]
    return found.view(len(clauses), len(pool)).mean(1)


def _tokens(pool: Asked, clause: Clause) -> list[int]:
    """Of the clause and its comma."""
    return pool.tokens_of(f"{' '.join(clause)} ,").tolist()


def _known(pool: Asked, word: str) -> bool:
    return pool.suspect.decode(pool.tokens_of(word).tolist()).strip() == word
