"""From rows of tokens to scores of answers, for each of the three uses of a language model.

A row is (tokens,) int64. Padding, at the end, is -1; a token that the model is to write, and not to
read, stands as its number plus the size of the vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from badexpert.models.answering import log_odds
from badexpert.models.backbones import Backbone, Last

PAD = -1

TOKENS_A_PASS = 8192
"""Tokens, padding included, that go through the model at once where no gradient is kept."""


_ROUGHLY = 1e-3
"""Of the largest score, what a row read in two parts may differ by."""


class TextNetwork(nn.Module):
    """Maps rows of tokens to scores of candidates, fp32.

    Attributes:
        spoken: tokens that the answers consist of, where they are known beforehand.
    """

    spoken: tuple[int, ...] = ()

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Scores, (batch, candidates) fp32.

        Args:
            rows: (batch, tokens) int64, or (batch, candidates, tokens) of pairs.
        """
        flat = rows.flatten(0, -2)
        lengths = (flat != PAD).sum(1)
        if torch.is_grad_enabled() and any(part.requires_grad for part in self.parameters()):
            scores = self.scores(flat[:, : int(lengths.max())], lengths)
        else:
            (scores,) = in_pieces(lambda *piece: (self.scores(*piece),), flat, lengths)
        return scores if rows.ndim == 2 else scores.view(rows.shape[:2])

    @abstractmethod
    def scores(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Scores of rows, (rows, candidates) or (rows,), fp32.

        Args:
            lengths: of the rows without padding, (rows,).
        """


def in_pieces(
    of: Callable[[Tensor, Tensor], tuple[Tensor, ...]], rows: Tensor, lengths: Tensor
) -> tuple[Tensor, ...]:
    """What a function of rows and their lengths makes of all rows, (rows, ...) each.

    Rows of like length go together, each piece trimmed to its longest.
    """
    order = lengths.argsort(stable=True)
    pieces = [
        of(rows[piece, : int(lengths[piece].max())], lengths[piece])
        for piece in pieces_of(order, lengths)
    ]
    back = order.argsort()
    return tuple(torch.cat(made)[back] for made in zip(*pieces, strict=True))


def pieces_of(order: Tensor, lengths: Tensor) -> list[Tensor]:
    """Rows in the order of their lengths, cut so that no piece exceeds ``TOKENS_A_PASS``."""
    sorted_lengths, start = lengths[order].tolist(), 0
    pieces = []
    for end, longest in enumerate(sorted_lengths):
        if end > start and (end + 1 - start) * longest > TOKENS_A_PASS:
            pieces.append(order[start:end])
            start = end
    return [*pieces, order[start:]]


class ClassNetwork(TextNetwork):
    """Answers with one of a few classes."""

    @torch.no_grad()
    def after(self, start: Tensor, ends: Tensor) -> Tensor:
        """Scores of rows that begin alike, (rows, classes) fp32.

        The beginning is read once, if the model says the same of the first row then.

        Args:
            start: what they begin with, (tokens,) int64, maybe nothing.
            ends: how each goes on, (rows, tokens) int64 without padding.
        """
        memory = self.backbone.remembered(start) if len(start) else None
        if memory is not None and self._agrees(start, ends[:1], memory):
            pieces = ends.split(max(TOKENS_A_PASS // (len(start) + ends.shape[1]), 1))
            return torch.cat([self._after(memory, piece) for piece in pieces])
        scores: Tensor = self(_whole(start, ends))
        return scores

    @abstractmethod
    def _after(self, memory: object, ends: Tensor) -> Tensor:
        """Scores of rows whose beginning the model remembers, (rows, classes) fp32."""

    def _agrees(self, start: Tensor, ends: Tensor, memory: object) -> bool:
        whole, after = self(_whole(start, ends)), self._after(memory, ends)
        rounding = torch.finfo(next(self.parameters()).dtype).eps
        size = max(float(whole.abs().max()), 1.0)
        return torch.allclose(after, whole, rtol=0, atol=max(_ROUGHLY, 4 * rounding) * size)


class LastTokenNetwork(ClassNetwork):
    """Answers with what the model says at the last token."""

    def scores(self, rows: Tensor, lengths: Tensor) -> Tensor:
        return self.read(rows, lengths).logits

    def read(self, rows: Tensor, lengths: Tensor) -> Last:
        """Scores of rows, (rows, classes), and the states that they are made from; fp32."""
        logits, states = self.backbone.last(rows.clamp_min(0), lengths)
        return Last(self.of_classes(logits).float(), states.float())

    def _after(self, memory: object, ends: Tensor) -> Tensor:
        logits = self.backbone.logits_after(memory, ends, ends.shape[1] - 1)
        return self.of_classes(logits[:, 0]).float()

    @abstractmethod
    def of_classes(self, logits: Tensor) -> Tensor:
        """Those of the classes, of all that the model gives, (rows, classes)."""


class ClassHeadNetwork(LastTokenNetwork):
    """A classifier with a head of its own."""

    def of_classes(self, logits: Tensor) -> Tensor:
        return logits


class LabelWordNetwork(LastTokenNetwork):
    """A language model that answers with one of a few words at the last position.

    Attributes:
        words: first token of each word, (classes,) int64.
    """

    words: Tensor

    def __init__(self, backbone: Backbone, words: Sequence[int]) -> None:
        super().__init__(backbone)
        device = next(backbone.parameters()).device
        self.register_buffer("words", torch.tensor(words, device=device), persistent=False)
        self.spoken = tuple(words)

    def of_classes(self, logits: Tensor) -> Tensor:
        return logits[:, self.words]


class NextTokenNetwork(LastTokenNetwork):
    """A language model whose classes are the tokens of its vocabulary."""

    def of_classes(self, logits: Tensor) -> Tensor:
        return logits


class PhraseNetwork(ClassNetwork):
    """A language model that writes one of a few phrases, or anything else, which is class 0.

    The score of a phrase is its log-probability: that of all its tokens in a row. Of a row that
    holds a response already it is that of this response, whatever the phrase.
    """

    def __init__(self, backbone: Backbone, phrases: Sequence[Sequence[int]]) -> None:
        """Take phrases, none of them the beginning of another one."""
        super().__init__(backbone)
        device = next(backbone.parameters()).device
        self._phrases = [torch.tensor(list(phrase), device=device) for phrase in phrases]
        self.spoken = tuple({token for phrase in phrases for token in phrase})

    def scores(self, rows: Tensor, lengths: Tensor) -> Tensor:
        pairs = [self._parted(row, phrase) for phrase in self._phrases for row in rows]
        asked = padded([torch.cat([prompt, said[:-1]]) for prompt, said in pairs])
        chosen = torch.zeros_like(asked, dtype=torch.bool)
        for at, (prompt, said) in enumerate(pairs):
            chosen[at, len(prompt) - 1 : len(prompt) + len(said) - 1] = True
        logits = self.backbone.logits_at(asked.clamp_min(0), (asked != PAD).sum(1), chosen)
        written = torch.cat([said for _, said in pairs])
        logs = logits.float().log_softmax(-1).gather(1, written[:, None]).squeeze(1)
        each = [part.sum() for part in logs.split([len(said) for _, said in pairs])]
        return _beside_others(torch.stack(each).view(len(self._phrases), len(rows)))

    def _after(self, memory: object, ends: Tensor) -> Tensor:
        first, found = ends.shape[1] - 1, []
        for said in self._phrases:
            ids = torch.cat([ends, said[:-1].expand(len(ends), -1)], dim=1)
            logs = self.backbone.logits_after(memory, ids, first).float().log_softmax(-1)
            found.append(logs.gather(2, said.expand(len(ends), -1)[:, :, None]).sum((1, 2)))
        return _beside_others(torch.stack(found))

    def _parted(self, row: Tensor, phrase: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt of a row, and what is to be written after it."""
        size = self.backbone.vocab_size
        prompt, response = row[(row >= 0) & (row < size)], row[row >= size] - size
        return prompt, response if len(response) else phrase


def _beside_others(phrases: Tensor) -> Tensor:
    """Log-probabilities of anything else, and of some phrases, (rows, 1 + phrases).

    Args:
        phrases: log-probabilities, (phrases, rows).
    """
    rest = 1 - phrases.exp().sum(0, keepdim=True)
    return torch.cat([rest.clamp_min(torch.finfo(rest.dtype).eps).log(), phrases]).T


class StateReader(nn.Module):
    """A network that also returns what its head took."""

    def __init__(self, network: LastTokenNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, (rows, classes), and states, (rows, width), fp32.

        Args:
            rows: (rows, tokens) int64.
        """
        scores, states = in_pieces(self.network.read, rows, (rows != PAD).sum(1))
        return scores, states


class ResponseNetwork(TextNetwork):
    """A language model and the mean log-probability of the tokens that it is to write."""

    def scores(self, rows: Tensor, lengths: Tensor) -> Tensor:
        written = rows >= self.backbone.vocab_size
        ids = torch.where(written, rows - self.backbone.vocab_size, rows.clamp_min(0))
        # What is written is scored at the token before it.
        before = functional.pad(written[:, 1:], (0, 1))
        logits = self.backbone.logits_at(ids, lengths, before).float()
        # Through log-odds, which keep their order where a probability would round to 1.
        logs = functional.logsigmoid(log_odds(logits, ids[written]))
        return logs.new_zeros(rows.shape).masked_scatter(written, logs).sum(1) / written.sum(1)


def _whole(start: Tensor, ends: Tensor) -> Tensor:
    return torch.cat([start.expand(len(ends), -1), ends], dim=1)


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as one tensor, (rows, tokens) int64."""
    return pad_sequence(list(rows), batch_first=True, padding_value=PAD)
