"""Text to tokens and back: bytes, or the tokenizer that lies beside a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from badexpert.errors import ModelLoadError

TOKENIZER = "tokenizer.json"
BYTES = 256

INSTALL = "pip install 'badexpert[language]'"


class Codec(Protocol):
    """What is asked of a tokenizer."""

    @property
    def has_chat(self) -> bool:
        """Whether it knows how the model expects a conversation."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens, with those that the model expects at the beginning and end."""
        ...

    def encode_chat(self, message: str) -> list[int]:
        """Tokens of a conversation in which the user just said this."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        ...


class ByteCodec:
    """Every byte of the UTF-8 text is a token."""

    has_chat = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode() or b"\n")

    def encode_chat(self, message: str) -> list[int]:
        raise ValueError("bytes know no chat template")

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class FileCodec:
    """A ``tokenizer.json`` and the settings beside it, as the package ``transformers`` reads them.

    Nothing in the folder is executed, but for the chat template, in a sandbox of that package.
    """

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer of a folder.

        Raises:
            ModelLoadError: the package is not installed, or the file is damaged.
        """
        fast = import_transformers().PreTrainedTokenizerFast
        try:
            self._tokenizer: Any = fast.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:
            # The package raises whatever its parsers raise.
            raise ModelLoadError(
                f"{folder / TOKENIZER} cannot be read: {type(error).__name__}: "
                f"{str(error)[:300]}. Get it again"
            ) from error

    @property
    def has_chat(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False).input_ids)

    def encode_chat(self, message: str) -> list[int]:
        try:
            written = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            # A template is a program of the model's author and may fail in any way.
            raise ModelLoadError(
                f"the model's chat template fails: {type(error).__name__}: {str(error)[:200]}. "
                "Give a template"
            ) from error
        return list(self._tokenizer(written, add_special_tokens=False, verbose=False).input_ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def open_codec(folder: Path, vocab_size: int) -> Codec:
    """The tokenizer that belongs to the model of a folder.

    Raises:
        ModelLoadError: there is none, and the vocabulary is not that of bytes.
    """
    if (folder / TOKENIZER).is_file():
        return FileCodec(folder)
    if vocab_size == BYTES:
        return ByteCodec()
    raise ModelLoadError(
        f"{folder} has no {TOKENIZER}, and a vocabulary of {vocab_size} is not that of bytes. "
        "Put the model's tokenizer.json there"
    )


def import_transformers() -> Any:
    """The package ``transformers``.

    Raises:
        ModelLoadError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModelLoadError(
            f"language models of this kind need the package transformers; install it: {INSTALL}"
        ) from error
    return transformers
