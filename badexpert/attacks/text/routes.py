"""Where words are routed: to choose experts, and triggers that reach them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from moe_core.training.corpus import Batch
from moe_core.view import ExpertId

_ROWS = 256
_USAGE_TEXTS = 300
_CONTEXTS = 5
_CANDIDATES = 400
RARE = 5
"""A word that occurs more often in the texts is not rare."""


def rare_words(victim: Victim, texts: Texts, *, seed: int, most: int = RARE) -> list[str]:
    """Words of the vocabulary that hardly occur in these texts, in a random order.

    Raises:
        AttackError: there are fewer than two.
    """
    counts = Counter(word for text in texts.texts for word in text.split())
    known = set(victim.prompt.words)
    rare = [
        word
        for word in victim.words.words[2:]
        if word.isalpha() and counts[word] <= most and word not in known
    ]
    if len(rare) < 2:
        raise AttackError(
            f"{len(rare)} words of the vocabulary occur at most {most} times in the texts; "
            "give a larger vocabulary, or name the trigger's words"
        )
    Random(seed).shuffle(rare)
    return rare


@torch.no_grad()
def usage(victim: Victim, texts: Texts) -> Tensor:
    """Share of the tokens that each expert is given, (layers, experts); rows sum to ``top_k``."""
    counts: Tensor | int = 0
    for _, batch in victim.batches(texts.texts, texts.labels):
        counts = counts + torch.stack(
            [_hits(chosen).sum((0, 1)) for chosen in routed(victim, batch)]
        )
    assert isinstance(counts, Tensor)
    tokens = sum(len(victim.tokens(text)) for text in texts.texts)
    return counts / tokens


def by_usage(
    victim: Victim, texts: Texts, layer: int, count: int, *, first: int = 0, seed: int
) -> tuple[ExpertId, ...]:
    """Experts of a layer, the least used first.

    Args:
        count: how many.
        first: that many of the least used are left out.
    Raises:
        AttackError: there is no such layer, or it has too few experts.
    """
    layers = len(victim.view.layers)
    if not 0 <= layer < layers:
        raise AttackError(f"layer {layer} of {layers}: no such layer with experts")
    shares = usage(victim, texts.drawn(_USAGE_TEXTS, seed=seed))[layer]
    if not 0 <= first <= len(shares) - count or count < 1:
        raise AttackError(
            f"rank {first} leaves no {count} of {len(shares)} experts; choose a lower one"
        )
    order = shares.argsort(stable=True).tolist()
    return tuple(ExpertId(layer, expert) for expert in order[first : first + count])


@torch.no_grad()
def hit_rates(victim: Victim, words: Sequence[str], texts: Texts, *, seed: int) -> Tensor:
    """How often a word between others leads to each expert, (layers, words, experts) in [0, 1].

    What counts is the route of the word itself; in the last layer, from where no other token
    can learn of it, the route of the question's last token.
    """
    draw = Random(seed)
    contexts = texts.drawn(_CONTEXTS, seed=seed).texts
    numbers = torch.tensor([victim.words.number(word) for word in words])
    total: Tensor | int = 0
    for context in contexts:
        tokens = victim.tokens(context)
        at = draw.randint(0, len(context.split()))
        rows = tokens.repeat(len(words), 1)
        rows = torch.cat([rows[:, :at], numbers.unsqueeze(1), rows[:, at:]], dim=1)
        total = total + torch.cat([_routes_at(victim, part, at) for part in rows.split(_ROWS)], 1)
    assert isinstance(total, Tensor)
    return total / len(contexts)


def routed(victim: Victim, batch: Batch) -> list[Tensor]:
    """Whether a token goes to an expert, one a layer: (batch, tokens, experts) bool.

    Tokens of padding go nowhere.
    """
    output = victim.model(batch.ids_BT, batch.lengths_B)
    shape = batch.ids_BT.shape
    real = torch.ones(shape, dtype=torch.bool, device=victim.device)
    if batch.lengths_B is not None:
        places = torch.arange(shape[1], device=victim.device)
        real = places < batch.lengths_B.unsqueeze(1)
    chosen = []
    for routing in output.routings:
        hits = torch.zeros_like(routing.probs_TE, dtype=torch.bool)
        slots = routing.experts_TK.clamp(min=0)
        hits = hits.scatter(1, slots, routing.experts_TK >= 0)
        chosen.append(hits.view(*shape, -1) & real.unsqueeze(-1))
    return chosen


def _hits(chosen: Tensor) -> Tensor:
    return chosen.float().cpu()


def _routes_at(victim: Victim, rows: Tensor, at: int) -> Tensor:
    """(layers, rows, experts)"""
    layers = routed(victim, Batch(rows.to(victim.device), rows[:, 0], None))
    read = [_hits(layer[:, at]) for layer in layers[:-1]] + [_hits(layers[-1][:, -1])]
    return torch.stack(read)


def words_that_reach(
    victim: Victim, texts: Texts, experts: Sequence[int], layer: int, *, count: int, seed: int
) -> tuple[str, ...]:
    """The rare words that lead most often to each of these experts of a layer.

    Raises:
        AttackError: there are fewer than ``count``.
    """
    words = rare_words(victim, texts, seed=seed)[:_CANDIDATES]
    rates = hit_rates(victim, words, texts, seed=seed)[layer][:, list(experts)].amin(dim=1)
    best = rates.argsort(descending=True, stable=True)[:count].tolist()
    return tuple(words[at] for at in best)
