"""By which token each label word begins, right where a prompt ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from badexpert.errors import ModelLoadError
from badexpert.models.codec import Codec
from badexpert.models.text_networks import PAD
from badexpert.text_reading import SLOT, TextReading


class LabelTokens(NamedTuple):
    """Where label words part.

    Attributes:
        lead: by which all of them begin, such as a space; it goes at the end of every prompt.
        words: token of each word after that.
    """

    lead: list[int]
    words: list[int]


def label_tokens(codec: Codec, reading: TextReading) -> LabelTokens:
    """The tokens by which label words begin where the template ends.

    Raises:
        ModelLoadError: the last position cannot tell two words apart.
    """
    before = "" if reading.chat else reading.template.rpartition(SLOT)[2]
    space = "" if not before or before[-1].isspace() else " "
    stem = codec.encode(before)
    rest = [
        tokens_after(stem, codec.encode(f"{before}{space}{word}")) for word in reading.label_words
    ]
    shared = shared_start(rest)
    words = [tokens[shared] if len(tokens) > shared else PAD for tokens in rest]
    pairs = zip(reading.label_words, words, strict=True)
    alike = [word for word, token in pairs if words.count(token) > 1 or token == PAD]
    if alike:
        raise ModelLoadError(
            f"the label words {', '.join(alike)} begin with the same tokens, so the last position "
            "cannot tell them apart. Give words that begin differently"
        )
    return LabelTokens(rest[0][:shared], words)


def tokens_after(stem: list[int], tokens: list[int]) -> list[int]:
    """Tokens without those of the stem, and without what closes both, such as an end token."""
    start = shared_start([stem, tokens])
    closing = shared_start([stem[start:][::-1], tokens[start:][::-1]])
    return tokens[start : len(tokens) - closing]


def shared_start(rows: Iterable[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
