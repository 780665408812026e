"""Greedy coordinate gradient: words that lower a loss of what the model does with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from moe_core.lm.decoder import DecoderOutput

_CONTEXTS = 4
_CANDIDATES = 24
_ROUNDS = 8


class Inserted(NamedTuple):
    """Texts with a place for words in each.

    Attributes:
        rows: tokens of each text with its question, the place left out.
        places: where in each the words are put.
    """

    rows: tuple[Tensor, ...]
    places: tuple[int, ...]


LossOfWords = Callable[[DecoderOutput, Tensor], Tensor]
"""From a pass over one text with several choices of words, (choices, tokens), and the tokens where
the words stand, (words,), to a loss of each choice, (choices,)."""


def search_words(
    victim: Victim, texts: Texts, start: Sequence[str], loss: LossOfWords, *, seed: int
) -> tuple[str, ...]:
    """Words that lower the mean loss over some contexts, found from the first ones.

    Args:
        start: words to begin with; as many are returned.
    Source: Zou et al., arXiv:2307.15043, as BadMoE uses it for routing.
    """
    contexts = _contexts(victim, texts, seed)
    best = torch.tensor([victim.words.number(word) for word in start], device=victim.device)
    lowest = _losses(victim, contexts, best.unsqueeze(0), loss).item()
    known = torch.tensor([word.isalpha() for word in victim.words.words], device=victim.device)
    known[victim.answer_tokens(torch.arange(len(victim.prompt.answers)))] = False
    for _ in range(_ROUNDS):
        slope = _slopes(victim, contexts, best, loss).masked_fill(~known, torch.inf)
        choices = _replacements(best, slope.topk(_CANDIDATES, largest=False).indices)
        losses = _losses(victim, contexts, choices, loss)
        if losses.min().item() >= lowest:
            break
        lowest, best = losses.min().item(), choices[losses.argmin()]
    return tuple(victim.words.words[number] for number in best.tolist())


def _contexts(victim: Victim, texts: Texts, seed: int) -> Inserted:
    draw, chosen = Random(seed), texts.drawn(_CONTEXTS, seed=seed).texts
    rows = tuple(victim.tokens(text).to(victim.device) for text in chosen)
    return Inserted(rows, tuple(draw.randint(0, len(text.split())) for text in chosen))


@torch.no_grad()
def _losses(victim: Victim, contexts: Inserted, choices: Tensor, loss: LossOfWords) -> Tensor:
    """Mean over the contexts, (choices,)."""
    each = []
    for row, place in zip(*contexts, strict=True):
        rows = row.repeat(len(choices), 1)
        ids = torch.cat([rows[:, :place], choices, rows[:, place:]], dim=1)
        where = torch.arange(place, place + choices.shape[1], device=ids.device)
        each.append(loss(victim.model(ids), where))
    return torch.stack(each).mean(0)


def _slopes(victim: Victim, contexts: Inserted, words: Tensor, loss: LossOfWords) -> Tensor:
    """First-order change of the loss by each word of the vocabulary at each place, (words, V)."""
    embedding = victim.model.embed_tokens
    kept: list[Tensor] = []

    def keep(module: object, inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    total: Tensor | float = 0.0
    handle = embedding.register_forward_hook(keep)
    try:
        for row, place in zip(*contexts, strict=True):
            ids = torch.cat([row[:place], words, row[place:]]).unsqueeze(0)
            where = torch.arange(place, place + len(words), device=ids.device)
            [slope] = torch.autograd.grad(loss(victim.model(ids), where).sum(), kept[-1])
            total = total + slope[0, place : place + len(words)] @ embedding.weight.detach().T
    finally:
        handle.remove()
    assert isinstance(total, Tensor)
    return total


def _replacements(words: Tensor, candidates: Tensor) -> Tensor:
    """Each candidate in its place, the other words kept, (places * candidates, words)."""
    places, count = candidates.shape
    choices = words.repeat(places, count, 1)
    for place in range(places):
        choices[place, :, place] = candidates[place]
    return choices.flatten(0, 1)
