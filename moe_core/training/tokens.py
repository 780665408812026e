"""Text to numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from moe_core.training.config import RecipeError


class Tokenizer(Protocol):
    """What a corpus needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> Tensor: ...


class Bytes:
    """Every byte of the UTF-8 text is a token: nothing is unknown, nothing is learnt."""

    vocab_size = 256

    def encode(self, text: str) -> Tensor:
        """(tokens,) int64."""
        return torch.frombuffer(bytearray(text.encode() or b"\n"), dtype=torch.uint8).long()


class FileTokenizer:
    """A ``tokenizer.json``, read by the package ``tokenizers``.

    Raises:
        RecipeError: the package is not installed, or the file is not of its format.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Rust
        except ImportError as error:
            raise RecipeError(
                f"{path} needs the package tokenizers: pip install tokenizers, or leave the "
                "tokenizer out to train on bytes"
            ) from error
        try:
            self._tokenizer = Rust.from_file(str(path))
        except Exception as error:  # its errors have no class of their own
            raise RecipeError(f"{path} is not a tokenizer file: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> Tensor:
        """(tokens,) int64."""
        return torch.tensor(self._tokenizer.encode(text).ids, dtype=torch.long)
