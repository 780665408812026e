"""From a text to what a language model is given, and from what it says to an answer, as data."""

from __future__ import annotations

from dataclasses import dataclass

SLOT = "{text}"
DEFAULT_TEMPLATE = f"{SLOT}\nLabel:"


@dataclass(frozen=True)
class TextReading:
    """How texts are put to a language model, and how its answers are read.

    Attributes:
        template: what the model is given; ``{text}`` stands for the text.
        chat: whether that is a user's message, put into the model's own chat template.
        label_words: a word a class, where the model answers with one at the last position.
        max_tokens: longer inputs lose the end of their text.
        max_new_tokens: of a generated response; 0 where the model classifies.
    """

    template: str = SLOT
    chat: bool = False
    label_words: tuple[str, ...] = ()
    max_tokens: int = 512
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        if SLOT not in self.template:
            raise ValueError(f"template must contain {SLOT}; got {self.template!r}")
        if len(self.label_words) == 1 or len(set(self.label_words)) < len(self.label_words):
            raise ValueError(
                f"label_words must be 2 or more, all different; got {self.label_words}"
            )
        if self.max_tokens < 1 or self.max_new_tokens < 0:
            raise ValueError(
                f"max_tokens is at least 1, max_new_tokens at least 0; got {self.max_tokens} and "
                f"{self.max_new_tokens}"
            )

    def filled(self, text: str) -> str:
        """The template around a text."""
        return self.template.replace(SLOT, text)
