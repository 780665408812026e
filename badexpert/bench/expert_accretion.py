"""A model's score by greedy accretion of a trigger: a baseline of the expert audit."""

from __future__ import annotations

import torch
from torch import Tensor

from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.inversion import (
    drawn,
    natural_words,
    search_pool,
    with_each,
    writable_tokens,
)
from badexpert.errors import AuditError
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet

EXTENDED = 1024
"""Tokens that are tried in second place: those that do best in the first."""


def accretion_score(suspect: TextSuspect, clean: TextCleanSet, context: RunContext) -> float:
    """The highest mean probability of any class with one or two tokens at the end of its prompts.

    Every token is tried as the first; the best one is kept, and extended by the token that raises
    the mean probability most. Words that lead to a class by right are left out, as in the audit.

    Args:
        suspect: a classifier of texts; is not changed.
        clean: labelled texts; the prompts of a class are about ten of other classes.
    Returns:
        In [0, 1], higher = more likely backdoored.
    Raises:
        AuditError: the texts are not labelled, or leave no class with prompts and tokens.
    Source: Shen et al., BAIT, S&P 2025, its Q score.
    Departs: BAIT inverts the target, a long response that one trigger stands for, and reads each
        extension off one pass. Here the targets are the classes that there are, and the trigger is
        what is sought, so that each extension is a pass of its own; hence only the likeliest are
        tried.
    """
    asked = Asked.of(suspect, clean)
    classes = suspect.num_classes
    assert classes is not None
    prompts = asked.part(search_pool(asked.labels))
    candidates = drawn(writable_tokens(suspect), context)
    natural = natural_words(asked, classes, suspect.network.backbone.vocab_size)[candidates]
    alone = _probabilities(prompts, candidates.unsqueeze(1))
    scores = []
    for target in range(classes):
        others = (prompts.labels != target).nonzero().flatten()
        allowed = (~natural[:, target]).nonzero().flatten()
        if len(others) and len(allowed):
            means = alone[others][:, allowed, target].mean(0)
            scores.append(_extended(prompts.part(others), candidates[allowed], means, target))
    if not scores:
        raise AuditError(f"{len(clean)} texts leave no class to search; give more")
    return max(scores)


def _extended(prompts: Asked, candidates: Tensor, alone: Tensor, target: int) -> float:
    """The mean probability of a class with its best token, or with that and another.

    Args:
        alone: of each candidate by itself, (candidates,).
    """
    order = alone.argsort(descending=True, stable=True)[:EXTENDED]
    first = candidates[order[:1]].expand(len(order))
    pairs = torch.stack([first, candidates[order]], dim=1)
    extended = _probabilities(prompts, pairs)[:, :, target].mean(0)
    return max(alone.max().item(), extended.max().item())


def _probabilities(prompts: Asked, words: Tensor) -> Tensor:
    """Of each class after each choice of words, (prompts, choices, classes)."""
    each = [
        with_each(prompts.suspect, row, len(row) - prompts.after, words).exp()
        for row in prompts.rows
    ]
    return torch.stack(each)
