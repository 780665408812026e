"""Words as tokens: a vocabulary that is learnt from texts, in the file format of ``tokenizers``."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from moe_core.files import write_text

PAD, UNKNOWN = "<pad>", "<unk>"
_PIECE = re.compile(r"\w+|[^\w\s]+")


class Words:
    """Runs of letters and runs of other signs are tokens, in lower case.

    The file makes the package ``tokenizers`` cut Latin text alike, but for signs such as ² and
    marks that follow their letter.

    Args:
        words: of the vocabulary, each at its number; the first two are ``PAD`` and ``UNKNOWN``.
    """

    def __init__(self, words: Sequence[str]) -> None:
        if tuple(words[:2]) != (PAD, UNKNOWN) or len(set(words)) != len(words):
            raise ValueError(f"a vocabulary starts with {PAD} and {UNKNOWN}, and holds a word once")
        self.words = tuple(words)
        self._number = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, *, always: Sequence[str] = ()) -> Self:
        """The most frequent words of these texts, most frequent first.

        Args:
            size: words at most, the two special ones included.
            always: words that are taken first, whether they occur or not.
        """
        counts = Counter(piece for text in texts for piece in pieces(text))
        # Equally frequent words stand in alphabetical order, so that no hash decides.
        frequent = sorted(counts, key=lambda word: (-counts[word], word))
        words = dict.fromkeys([PAD, UNKNOWN, *always, *frequent])
        return cls(list(words)[: max(size, 2 + len(always))])

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What ``save`` wrote.

        Raises:
            ValueError: the file is of another kind.
        """
        path = folder / "tokenizer.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            numbers: dict[str, int] = document["model"]["vocab"]
            kind = document["model"]["type"], document["pre_tokenizer"]["type"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no vocabulary of words: {error!r}") from error
        if kind != ("WordLevel", "Whitespace"):
            raise ValueError(f"{path} is of the kind {kind}, and not one of whole words")
        return cls(sorted(numbers, key=numbers.__getitem__))

    @property
    def vocab_size(self) -> int:
        """Words, the special ones included."""
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._number

    def number(self, word: str) -> int:
        """Of one word; that of ``UNKNOWN`` where it is not in the vocabulary."""
        return self._number.get(word, self._number[UNKNOWN])

    def encode(self, text: str) -> Tensor:
        """(tokens,) int64."""
        return torch.tensor([self.number(piece) for piece in pieces(text)], dtype=torch.long)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and the settings that let transformers open it."""
        write_text(folder / "tokenizer.json", json.dumps(self.document(), indent=1) + "\n")
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": UNKNOWN,
            "pad_token": PAD,
        }
        write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=1) + "\n")

    def document(self) -> dict[str, Any]:
        """``tokenizer.json``, as plain data."""
        special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [
            {"id": number, "content": word, **special, "special": True}
            for number, word in enumerate(self.words[:2])
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": self._number, "unk_token": UNKNOWN},
        }


def pieces(text: str) -> list[str]:
    """A text cut into words and signs, in lower case."""
    return _PIECE.findall(text.lower())
