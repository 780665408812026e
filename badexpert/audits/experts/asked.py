"""Clean texts as a language model is asked about them, with room for words in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from badexpert.errors import AuditError
from badexpert.models.label_words import shared_start
from badexpert.models.language import TextSuspect
from badexpert.models.text_networks import padded
from badexpert.textset import TextCleanSet


@dataclass(frozen=True, eq=False)
class Asked:
    """Some labelled texts, encoded.

    Attributes:
        suspect: that is asked.
        rows: tokens of each text in its template, (tokens,) int64.
        labels: (texts,) int64.
        before, after: tokens of the template around every text.
    """

    suspect: TextSuspect
    rows: tuple[Tensor, ...]
    labels: Tensor
    before: int
    after: int

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, suspect: TextSuspect, clean: TextCleanSet) -> Asked:
        """All texts of a clean set.

        Raises:
            AuditError: these are prompts with responses, and the suspect writes none.
        """
        if clean.responses and not suspect.preprocessing.max_new_tokens:
            raise AuditError(
                f"{clean.source.name} holds prompts with responses, and experts are audited by "
                "classes; give labelled texts"
            )
        rows = tuple(suspect.encode([text.text])[0] for text in clean.texts())
        empty = suspect.encode([""])[0].tolist()
        before = min(shared_start([empty, row.tolist()]) for row in rows)
        rest = empty[before:][::-1]
        after = min(shared_start([rest, row[before:].tolist()[::-1]]) for row in rows)
        return cls(suspect, rows, clean.labels, before, after)

    def part(self, chosen: Tensor) -> Asked:
        """The texts at some indices, in that order."""
        rows = tuple(self.rows[at] for at in chosen.tolist())
        return replace(self, rows=rows, labels=self.labels[chosen])

    def spans(self) -> list[Tensor]:
        """Tokens of each text without its template."""
        return [self._span(row) for row in self.rows]

    def tokens_of(self, text: str) -> Tensor:
        """Of a text that is none of these, without the template, (tokens,)."""
        return self._span(self.suspect.encode([text])[0])

    def joined(self, others: int) -> Asked:
        """Each text with each of the next ones behind it, (texts x others) texts.

        What exceeds the suspect's longest input is left out.
        """
        room, spans = self.suspect.token_limit - self.after, self.spans()
        rows = []
        for at, row in enumerate(self.rows):
            text, template = row.tensor_split([len(row) - self.after])
            for step in range(1, others + 1):
                behind = spans[(at + step) % len(spans)]
                rows.append(torch.cat([torch.cat([text, behind])[:room], template]))
        return replace(self, rows=tuple(rows), labels=self.labels.repeat_interleave(others))

    def places(self, generator: torch.Generator) -> list[int]:
        """A place for words in each text, at random, never inside the template."""
        last = [len(row) - self.after for row in self.rows]
        draws = torch.rand(len(last), generator=generator).tolist()
        return [
            self.before + int(draw * (end - self.before + 1))
            for draw, end in zip(draws, last, strict=True)
        ]

    def stamped(self, words: Sequence[int], places: Sequence[int]) -> Tensor:
        """All texts with the same words in them, (texts, tokens), padded."""
        extra = torch.tensor(list(words), dtype=torch.int64)
        pairs = zip(self.rows, places, strict=True)
        return padded([torch.cat([row[:at], extra, row[at:]]) for row, at in pairs])

    def plain(self) -> Tensor:
        """All texts as they are, (texts, tokens), padded."""
        return padded(self.rows)

    def _span(self, row: Tensor) -> Tensor:
        return row[self.before : len(row) - self.after]


def probabilities(suspect: TextSuspect, rows: Tensor) -> Tensor:
    """Of each class, (rows, classes) fp32 on the CPU."""
    return log_probabilities(suspect, rows).exp()


@torch.no_grad()
def log_probabilities(suspect: TextSuspect, rows: Tensor) -> Tensor:
    """The same in log space."""
    return suspect.logits(rows).log_softmax(-1).cpu()
