"""A model's score by greedy accretion of a trigger: a baseline of the expert audit."""

from __future__ import annotations

import torch
from torch import Tensor

from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.inversion import drawn, search_pool, with_each, writable_tokens
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet

EXTENDED = 1024
"""Tokens that are tried in second place: those that do best in the first."""


def accretion_score(suspect: TextSuspect, clean: TextCleanSet, context: RunContext) -> float:
    """The highest mean probability of any class with one or two tokens at the end of its prompts.

    Every token is tried as the first; the best one is kept, and extended by the token that raises
    the mean probability most.

    Args:
        suspect: a classifier of texts; is not changed.
        clean: labelled texts; the prompts of a class are about ten of other classes.
    Returns:
        In [0, 1], higher = more likely backdoored.
    Raises:
        AuditError: the texts are not labelled.
    Source: Shen et al., BAIT, S&P 2025, its Q score.
    Departs: BAIT inverts the target, a long response that one trigger stands for, and reads each
        extension off one pass. Here the targets are the classes that there are, and the trigger is
        what is sought, so that each extension is a pass of its own; hence only the likeliest are
        tried. As there, words that lead to a class by right are not told from triggers, and prompts
        that were searched with are measured on.
    """
    asked = Asked.of(suspect, clean)
    classes = suspect.num_classes
    assert classes is not None
    prompts = asked.part(search_pool(asked.labels, classes))
    candidates = drawn(writable_tokens(suspect), context)
    alone = _probabilities(prompts, candidates.unsqueeze(1))
    targets = [target for target in range(classes) if (prompts.labels != target).any()]
    return max(_extended(prompts, candidates, alone, target) for target in targets)


def _extended(prompts: Asked, candidates: Tensor, alone: Tensor, target: int) -> float:
    """The mean probability of a class with its best token, or with that and another.

    Args:
        alone: see ``_probabilities``, of each candidate.
    """
    others = (prompts.labels != target).nonzero().flatten()
    scores = alone[others, :, target].mean(0)
    order = scores.argsort(descending=True, stable=True)[:EXTENDED]
    first = candidates[order[:1]].expand(len(order))
    pairs = torch.stack([first, candidates[order]], dim=1)
    extended = _probabilities(prompts.part(others), pairs)[:, :, target].mean(0)
    return max(scores.max().item(), extended.max().item())


def _probabilities(prompts: Asked, words: Tensor) -> Tensor:
    """Of each class after each choice of words, (prompts, choices, classes)."""
    each = [
        with_each(prompts.suspect, row, len(row) - prompts.after, words).exp()
        for row in prompts.rows
    ]
    return torch.stack(each)
