"""A trigger that was found, and how surely it leads texts to its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from badexpert.audits.experts.asked import Asked, probabilities
from badexpert.runtime import RunContext

HELD_OUT = 100
"""Texts that the success of a trigger is measured on, at most."""

NO_TRIGGER = 0.5
"""Success below which words are none."""


_JOINED = 4
"""Texts that each is joined with, one at a time."""


class Place(StrEnum):
    """Where a trigger stands in a text."""

    ANYWHERE = "anywhere in"
    FRONT = "in front of"


@dataclass(frozen=True)
class InvertedTrigger:
    """The best words that were found for a class.

    Attributes:
        target: class.
        tokens: one or more, in a row.
        place: where they stand.
        success: mean probability of the target on held-out texts with the tokens, texts that are
            neither of the class nor answered with it by themselves.
        held_out: how many.
        diluted: the same where each text is joined with another; None of a success that is none.
    """

    target: int
    tokens: tuple[int, ...]
    place: Place
    success: float
    held_out: int
    diluted: float | None = None

    @property
    def strength(self) -> float:
        """What is left of the success in longer texts, if that was measured."""
        return self.success if self.diluted is None else min(self.success, self.diluted)

    def stamped(self, texts: Asked, context: RunContext) -> Tensor:
        """Texts with the trigger, the same whenever asked, (texts, tokens)."""
        return _stamped(texts, self.tokens, self.place, context)


def measured(
    held_out: Asked, target: int, tokens: Sequence[int], place: Place, context: RunContext
) -> InvertedTrigger:
    """Some words with their success.

    Words that speak for a class say little in a long text that speaks for another one, and a
    planted trigger decides alone. So what succeeds is tried in longer texts, too.

    Args:
        held_out: texts that the search has not seen, as ``counted`` chooses them.
    """

    def success(texts: Asked) -> float:
        rows = _stamped(texts, tokens, place, context)
        return probabilities(texts.suspect, rows)[:, target].mean().item()

    short = success(held_out)
    long = success(held_out.joined(_JOINED)) if short >= NO_TRIGGER else None
    return InvertedTrigger(target, tuple(tokens), place, short, len(held_out), long)


def counted(texts: Asked, answers: Tensor, target: int) -> Tensor:
    """Indices of the texts that neither are of a class nor are answered with it, (texts,)."""
    return ((texts.labels != target) & (answers != target)).nonzero().flatten()[:HELD_OUT]


def _stamped(texts: Asked, tokens: Sequence[int], place: Place, context: RunContext) -> Tensor:
    places = [texts.before] * len(texts)
    if place is Place.ANYWHERE:
        places = texts.places(context.generator("places of the measurement"))
    return texts.stamped(tokens, places)
