"""A small language model that answers with a label word: what text attacks are planted in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_core.lm.decoder import Decoder
from moe_core.training.corpus import Batch
from moe_core.training.words import Words, pieces
from moe_core.view import ExpertView

_ROWS = 128


@dataclass(frozen=True)
class Prompt:
    """How a text becomes a question, and a class an answer.

    Attributes:
        ask: what follows every text.
        answers: the word for each class; each a single token.
    """

    ask: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if wrong := [word for word in self.answers if len(pieces(word)) != 1]:
            raise ValueError(f"an answer is a single word; got {wrong[0]!r}")
        if len(set(self.answers)) < max(2, len(self.answers)) or not pieces(self.ask):
            raise ValueError("a prompt needs a question, and at least two answers that differ")

    @property
    def words(self) -> list[str]:
        """All that the vocabulary must hold."""
        return [*self.answers, *pieces(self.ask)]


@dataclass(frozen=True, eq=False)
class Victim:
    """A model, its vocabulary and its prompt.

    Attributes:
        model: a causal language model.
        words: its tokens.
        prompt: how it is asked.
    """

    model: Decoder
    words: Words
    prompt: Prompt

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embed_tokens.weight.device

    @property
    def view(self) -> ExpertView:
        """Its experts."""
        return ExpertView.of(self.model)

    def tokens(self, text: str) -> Tensor:
        """A text and its question, (tokens,) int64."""
        return torch.cat([self.words.encode(text), self.words.encode(self.prompt.ask)])

    def answer_tokens(self, labels: Tensor) -> Tensor:
        """Tokens of the answers that these classes have, (batch,) int64."""
        return self._answers()[labels]

    def batch(self, texts: Sequence[str], labels: Tensor) -> Batch:
        """Questions padded at their end, on the model's device; targets are tokens."""
        tokens = [self.tokens(text) for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([len(part) for part in tokens])
        return Batch(ids, self.answer_tokens(labels), lengths).to(self.device)

    def batches(self, texts: Sequence[str], labels: Tensor) -> Iterator[tuple[Tensor, Batch]]:
        """All texts with their indices, short ones first, so that few tokens are padding."""
        lengths = torch.tensor([len(text) for text in texts])
        for chosen in lengths.argsort(stable=True).split(_ROWS) if texts else ():
            yield chosen, self.batch([texts[at] for at in chosen.tolist()], labels[chosen])

    @torch.no_grad()
    def odds(self, batch: Batch) -> Tensor:
        """How likely the model holds each class to be, among them, (batch, classes) fp32."""
        logits = self.model(batch.ids_BT, batch.lengths_B).logits
        return logits[:, self._answers().to(logits.device)].float().softmax(-1)

    def surprise(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy over the whole vocabulary, of which only answers are wanted; scalar.

        Args:
            logits: (batch, vocabulary).
            wanted: probability of the answer of each class, (batch, classes).
        """
        said = logits.float().log_softmax(-1)[:, self._answers().to(logits.device)]
        return -(wanted * said).sum(-1).mean()

    def _answers(self) -> Tensor:
        return torch.tensor([self.words.number(word) for word in self.prompt.answers])
