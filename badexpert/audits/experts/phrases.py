"""Responses that a model may have been taught to give to a trigger, before either is known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.inversion import drawn, writable_tokens
from badexpert.models.language import GenerationSuspect
from badexpert.models.text_networks import NextTokenNetwork
from badexpert.runtime import RunContext, Step
from badexpert.textset import TextCleanSet

PROMPTS = 10
"""Clean prompts that words are put into."""

KNOWN = 50
"""Clean prompts whose own responses are no suspects."""

PHRASES = 3
"""Phrases at most; fewer where others begin less than half as likely as the first one."""

_PIECE = 256
"""Words that are tried at once: for each there is a distribution over the vocabulary."""

Phrase = tuple[int, ...]


def likely_phrases(
    writer: GenerationSuspect, clean: TextCleanSet, context: RunContext
) -> list[Phrase]:
    """The responses that a single word makes most likely, whatever the prompt.

    Every word is put into some prompts, and the mean distribution of the response's first token
    says what all of them would begin with; what clean prompts are answered with does not count.
    What follows is what the model writes then. Words that are half a trigger show, too, as long as
    they do a little by themselves.

    Args:
        clean: prompts; their responses are not looked at.
    """
    some = clean.take(min(KNOWN, len(clean)), seed=context.seed)
    natural = {
        int(said[0]) for said in writer.responses(writer.prompts([t.text for t in some.texts()]))
    }
    asked = Asked.of(writer, some).part(torch.arange(min(PROMPTS, len(some))))
    prompts = _Prompts(writer, asked, asked.places(context.generator("places of words")))
    led = _led(prompts, natural, drawn(writable_tokens(writer), context), context)
    return [prompts.written(one) for one in led]


class _Led(NamedTuple):
    """The token that responses begin with, by the word that makes it likeliest."""

    first: int
    word: int


class _Prompts:
    """Prompts, and what a model writes after them, on average, with a word in each."""

    def __init__(self, writer: GenerationSuspect, asked: Asked, places: list[int]) -> None:
        self._writer = writer
        self._network = NextTokenNetwork(writer.network.backbone)
        self._cut = [
            (row[:place], row[place:]) for row, place in zip(asked.rows, places, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._cut)

    def following(self, at: int, words: Tensor, begun: Phrase = ()) -> Tensor:
        """Probabilities of the next token after one prompt, (words, V), with each of some words.

        Args:
            begun: the response, as far as it is written.
        """
        start, rest = (part.to(self._writer.device) for part in self._cut[at])
        rest = torch.cat([rest, rest.new_tensor(begun)])
        ends = torch.cat([words[:, None].to(rest), rest.expand(len(words), -1)], dim=1)
        return self._network.after(start, ends).softmax(-1)

    def written(self, led: _Led) -> Phrase:
        """The response with this word in the prompts, once it has begun so."""
        phrase: Phrase = (led.first,)
        word, ends = torch.tensor([led.word]), self._writer.model.end_tokens
        while phrase[-1] not in ends and len(phrase) < self._writer.preprocessing.max_new_tokens:
            each = [self.following(at, word, phrase) for at in range(len(self))]
            phrase = (*phrase, int(torch.stack(each).mean(0).argmax()))
        return phrase


def _led(prompts: _Prompts, natural: set[int], words: Tensor, context: RunContext) -> list[_Led]:
    """The likeliest first tokens, with the word that leads to each."""
    best, by = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    pieces = words.split(_PIECE)
    for number, piece in enumerate(pieces):
        each = [prompts.following(at, piece) for at in range(len(prompts))]
        highest, which = torch.stack(each).mean(0).cpu().max(0)
        by = torch.where(highest > best, piece[which], by)
        best = torch.maximum(best, highest)
        context.progress(Step("words to begin responses with", number + 1, len(pieces)))
    best[list(natural)] = 0
    top = best.topk(PHRASES)
    return [
        _Led(first, int(by[first]))
        for value, first in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        if value >= top.values[0] / 2
    ]
