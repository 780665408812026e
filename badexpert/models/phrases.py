"""A model that writes, asked how surely it writes some phrases: as a classifier of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from badexpert.errors import ConfigError
from badexpert.models.label_words import shared_start
from badexpert.models.language import GenerationSuspect, TextSuspect
from badexpert.models.text_networks import PhraseNetwork


class PhraseSuspect(TextSuspect):
    """Answers a prompt with class 0, or with the class of the phrase that the response begins with.

    Attributes:
        writer: that is asked.
        phrases: tokens of each, by class from 1 on.
    """

    def __init__(self, writer: GenerationSuspect, phrases: Sequence[Sequence[int]]) -> None:
        """Take the writer's own model.

        Raises:
            ConfigError: a phrase has no tokens, or begins another one.
        """
        self.writer = writer
        self.phrases = tuple(tuple(phrase) for phrase in phrases)
        for phrase in self.phrases:
            if not phrase:
                raise ConfigError("a phrase has no tokens; give one of a word or more")
            others = [other for other in self.phrases if other is not phrase]
            if any(shared_start([phrase, other]) == len(phrase) for other in others):
                raise ConfigError(
                    f"the phrase {writer.decode(phrase)!r} is the beginning of another one, so "
                    "that a response may be both. Leave one of them out"
                )
        super().__init__(
            writer.model,
            PhraseNetwork(writer.network.backbone, self.phrases),
            writer.preprocessing,
            writer.lead,
        )

    @property
    def num_classes(self) -> int:
        """One for each phrase, and one for all other responses."""
        return 1 + len(self.phrases)

    def answered(self, prompts: Sequence[Tensor]) -> Tensor:
        """Prompts with the writer's own responses, (rows, tokens): these are asked for then."""
        return self.writer.joined(prompts, self.writer.responses(prompts))

    def named(self, answer: int) -> str:
        """The phrase of a class, in a sentence."""
        return f"the response {self.decode(self.phrases[answer - 1])!r}" if answer else "others"
