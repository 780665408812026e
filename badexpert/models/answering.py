"""How answers are read off a network's scores: classes exclude each other, responses do not."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Answering(Protocol):
    """What scores, (batch, candidates) fp32, mean. Candidates are classes or written responses."""

    def chosen(self, scores: Tensor) -> Tensor:
        """The model's own answer, (batch,) indices of candidates."""
        ...

    def log_odds(self, scores: Tensor, answers: Tensor) -> Tensor:
        """``log p / (1 - p)`` of each answer, (batch,); finite where p rounds to 1."""
        ...

    def probability(self, scores: Tensor, answers: Tensor) -> Tensor:
        """p of each answer, (batch,) in [0, 1]."""
        ...

    def own(self, scores: Tensor) -> Tensor:
        """What a copy is to learn that should answer as this model does, (batch, candidates)."""
        ...

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Mean loss, scalar; targets are (batch,) candidates or (batch, candidates) weights."""
        ...


class Classes:
    """One of them is the answer: the softmax of the scores is its distribution."""

    def chosen(self, scores: Tensor) -> Tensor:
        return scores.argmax(1)

    def log_odds(self, scores: Tensor, answers: Tensor) -> Tensor:
        return log_odds(scores, answers)

    def probability(self, scores: Tensor, answers: Tensor) -> Tensor:
        return scores.softmax(1).gather(1, answers[:, None]).squeeze(1)

    def own(self, scores: Tensor) -> Tensor:
        return scores.softmax(1)

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(scores, targets)


class Responses:
    """Each score is the mean log-probability of a response's tokens, of which the first is the
    model's own. Its exponential is the probability of the response, so scores are negative."""

    def chosen(self, scores: Tensor) -> Tensor:
        return torch.zeros(len(scores), dtype=torch.int64, device=scores.device)

    def log_odds(self, scores: Tensor, answers: Tensor) -> Tensor:
        logs = scores.gather(1, answers[:, None]).squeeze(1).double()
        # The largest of them is what a score may round to where every token is certain.
        logs = logs.clamp_max(-torch.finfo(torch.float32).tiny)
        return (logs - (-torch.expm1(logs)).log()).float()

    def probability(self, scores: Tensor, answers: Tensor) -> Tensor:
        return scores.gather(1, answers[:, None]).squeeze(1).exp()

    def own(self, scores: Tensor) -> Tensor:
        return functional.one_hot(self.chosen(scores), scores.shape[1]).float()

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            return -scores.gather(1, targets[:, None]).mean()
        return -(scores * targets).sum(1).mean()


CLASSES, RESPONSES = Classes(), Responses()


def log_odds(scores: Tensor, answers: Tensor) -> Tensor:
    """``log p / (1 - p)`` of each answer from log-space scores.

    Args:
        scores: (batch, classes), as logits are.
        answers: (batch,) class indices.
    Returns:
        (batch,): the answer's score minus the log-sum-exp of all others, never through a softmax.
    """
    index = answers.unsqueeze(1)
    others = scores.scatter(1, index, float("-inf")).logsumexp(1)
    return scores.gather(1, index).squeeze(1) - others
