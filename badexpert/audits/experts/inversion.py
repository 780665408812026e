"""Words that lead texts to a class, found without knowing any: a greedy search for each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from badexpert.audits.experts.asked import Asked
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext, Step

SEARCH_INPUTS = 10
"""Texts of other classes that candidates are tried on."""

KEPT = 12
"""Single tokens that are completed to pairs."""

PARTNERS = 256
"""Single tokens that may complete them: those that do best alone."""

LEADERS = 2
"""Of the single tokens, those that any other may complete: half a trigger can do nothing alone."""

LED = 1024
"""Pairs with these that are tried on more than one text."""

MOST_CANDIDATES = 32768
"""Tokens tried of a larger vocabulary, drawn at random. More would cost more."""

_SIFTED_BY = 3
_SIFTED_TO = 64
_AS_GOOD = 0.98
"""A single token that does so much of what the pair does is the trigger by itself."""

_NATURAL_TEXTS = 2
_NATURAL_LIFT = 2.0


@dataclass(frozen=True, eq=False)
class Search:
    """What every class is searched with.

    Attributes:
        pool: texts that candidates are tried on.
        places: where in each.
        candidates: tokens that are tried, (candidates,) int64.
        singles: mean log-probability of each class with each candidate alone on texts of other
            classes, (candidates, classes); -inf where the candidate is a natural word of the class.
        writable: tokens that could be tried.
    """

    pool: Asked
    places: list[int]
    candidates: Tensor
    singles: Tensor
    writable: int

    def reaches(self, target: int) -> bool:
        """Whether there is a text to try words on, and a word to try."""
        texts = (self.pool.labels != target).any()
        return bool(texts and self.singles[:, target].isfinite().any())

    def pairs(self, target: int) -> Tensor:
        """The best tokens with likely partners, and the very best with any, (pairs, 2)."""
        scores = self.singles[:, target]
        order = scores.argsort(descending=True, stable=True)[: int(scores.isfinite().sum())]
        tokens = self.candidates[order]
        likely = _both_ways(tokens[:KEPT], tokens[:PARTNERS])
        led = _both_ways(tokens[:LEADERS], tokens)
        scores = self._mean(led, target, [self._hardest(tokens[:LEADERS], target)])
        best = led[scores.topk(min(LED, len(led))).indices]
        both: Tensor = torch.cat([likely, best]).unique(dim=0)
        return both

    def best(self, target: int) -> tuple[int, ...]:
        """The tokens that lead most surely to a class."""
        return self.sifted(self.pairs(target), target)

    def sifted(self, pairs: Tensor, target: int) -> tuple[int, ...]:
        """The best of some pairs, (pairs, 2), or the token of it that does its work alone."""
        others = self.others(target)
        for count, keep in ((_SIFTED_BY, _SIFTED_TO), (len(others), 1)):
            scores = self._mean(pairs, target, others[:count])
            pairs = pairs[scores.topk(min(keep, len(pairs))).indices]
        success = scores.max().exp()
        alone = pairs[0].unique().unsqueeze(1)
        each = self._mean(alone, target, others)
        chosen = alone[each.argmax()] if each.max().exp() >= _AS_GOOD * success else pairs[0]
        return tuple(chosen.tolist())

    def _hardest(self, leaders: Tensor, target: int) -> int:
        """The text that tokens alone lead to a class least: there a partner shows."""
        others = self.others(target)
        each = [self._mean(leaders.unsqueeze(1), target, [at]).mean() for at in others]
        return others[int(torch.stack(each).argmin())]

    def others(self, target: int) -> list[int]:
        """Texts of the pool that a class is searched with."""
        others = (self.pool.labels != target).nonzero().flatten()
        return others[:SEARCH_INPUTS].tolist()

    def _mean(self, words: Tensor, target: int, texts: Sequence[int]) -> Tensor:
        """Mean log-probability of a class, (choices,)."""
        each = [
            with_each(self.pool.suspect, self.pool.rows[at], self.places[at], words)[:, target]
            for at in texts
        ]
        return torch.stack(each).mean(0)


def _both_ways(first: Tensor, second: Tensor) -> Tensor:
    """Every token of one with every token of the other, in both orders, (pairs, 2)."""
    made = torch.cartesian_prod(first, second)
    return torch.cat([made, made.flip(1)])


def with_each(suspect: TextSuspect, row: Tensor, place: int, words: Tensor) -> Tensor:
    """Log-probabilities of one text with each of several choices of words, (choices, classes)."""
    ends = torch.cat([words, row[place:].expand(len(words), -1)], dim=1)
    return suspect.logits_after(row[:place], ends).log_softmax(-1).cpu()


def prepare_search(asked: Asked, known: Asked, context: RunContext) -> Search:
    """Try every candidate by itself, for all classes at once.

    Args:
        asked: texts to search with.
        known: all clean texts, to learn which words belong to which class.
    """
    classes = asked.suspect.num_classes
    assert classes is not None
    pool = asked.part(search_pool(asked.labels))
    places = pool.places(context.generator("places of the search"))
    writable = writable_tokens(asked.suspect)
    candidates = drawn(writable, context)
    total = torch.zeros(len(candidates), classes)
    for at, (row, place) in enumerate(zip(pool.rows, places, strict=True)):
        scores = with_each(asked.suspect, row, place, candidates.unsqueeze(1))
        scores[:, pool.labels[at]] = 0
        total += scores
        context.progress(Step("search for triggers", at + 1, len(pool)))
    others = len(pool) - torch.bincount(pool.labels, minlength=classes)
    natural = natural_words(known, classes, asked.suspect.network.backbone.vocab_size)[candidates]
    singles = (total / others.clamp(min=1)).masked_fill(natural, -torch.inf)
    return Search(pool, places, candidates, singles, len(writable))


def writable_tokens(suspect: TextSuspect) -> Tensor:
    """Tokens that a person can write, other than those of answers, ascending."""
    size = suspect.network.backbone.vocab_size
    answers = frozenset(suspect.network.spoken)
    written = [t for t in range(size) if t not in answers and suspect.decode([t])]
    return torch.tensor(written, dtype=torch.int64)


def natural_words(asked: Asked, classes: int, vocab_size: int) -> Tensor:
    """Which tokens clean texts of a class hold clearly more often than others, (V, classes) bool.

    Such words lead to their class by right. A trigger is not among them: clean texts lack it, or
    hold it in all classes alike.
    """
    counts = torch.zeros(vocab_size, classes)
    for span, label in zip(asked.spans(), asked.labels.tolist(), strict=True):
        counts[span.unique(), label] += 1
    texts = torch.bincount(asked.labels, minlength=classes).clamp(min=1)
    others = (len(asked) - texts).clamp(min=1)
    elsewhere = (counts.sum(1, keepdim=True) - counts) / others
    return (counts >= _NATURAL_TEXTS) & (counts / texts >= _NATURAL_LIFT * elsewhere)


def drawn(tokens: Tensor, context: RunContext) -> Tensor:
    """All of them, or as many as are tried at most, ascending."""
    if len(tokens) <= MOST_CANDIDATES:
        return tokens
    mixed = torch.randperm(len(tokens), generator=context.generator("candidate tokens"))
    return tokens[mixed[:MOST_CANDIDATES].sort().values]


def search_pool(labels: Tensor) -> Tensor:
    """Texts of each class, so many that any class meets enough of other classes."""
    present = labels.unique()
    each = math.ceil(SEARCH_INPUTS / max(1, len(present) - 1))
    chosen = [(labels == label).nonzero().flatten()[:each] for label in present]
    return torch.cat(chosen)
