"""A model's score by how much its layers disagree under attack: a baseline of the expert audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.audit import expert_view
from badexpert.errors import AuditError
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet
from moe_core.replay import LayerStack, hidden_of

STEP = 0.1
"""Of the adversarial step, in root mean squares of a text's embedding."""

TEXTS = 32
"""That are looked at, at most."""


def consistency_score(suspect: TextSuspect, clean: TextCleanSet, context: RunContext) -> float:
    """How far hidden states turn from layer to layer, once the embedding is moved to that end.

    Args:
        suspect: a classifier of texts with Mixture-of-Experts layers; is not changed.
        clean: labelled texts.
    Returns:
        Mean of one minus the cosine over layers, tokens and texts, in [0, 2], higher = more likely
        backdoored.
    Raises:
        AuditError: the layers of the model lie in no one list, or the texts are not labelled.
    Source: Min et al., CROW, arXiv:2411.12768: backdoored models are said to be less consistent.
    Departs: CROW tunes that away and scores no model; here it is measured and compared. The step is
        relative to the embedding, whose scale differs between models.
    """
    stack = LayerStack.of(suspect.module, expert_view(suspect).names)
    if stack is None:
        raise AuditError(f"the layers of {suspect.origin.source} lie in no one list")
    rows = Asked.of(suspect, clean).rows[:TEXTS]
    return fmean(_attacked(stack, partial(suspect.logits, row.unsqueeze(0))) for row in rows)


def _attacked(stack: LayerStack, run: Callable[[], Tensor]) -> float:
    """Inconsistency of one text, after a step in the direction that raises it."""
    with torch.no_grad():
        embedded = stack.calls(run)[1][0].inputs[0]
    moved = embedded.clone().requires_grad_()
    [gradient] = torch.autograd.grad(_inconsistency(stack, run, moved), moved)
    size = STEP * embedded.float().square().mean().sqrt()
    with torch.no_grad():
        stepped = embedded + (size * gradient.sign()).to(embedded.dtype)
        return _inconsistency(stack, run, stepped).item()


def _inconsistency(stack: LayerStack, run: Callable[[], Tensor], embedded: Tensor) -> Tensor:
    """Mean over layers and tokens of one minus the cosine of what enters and what leaves."""
    with _given(stack.layers[0], embedded):
        calls = stack.calls(run)[1]
    states = [*(call.inputs[0] for call in calls), hidden_of(calls[-1].output)]
    turns = [
        1 - functional.cosine_similarity(below.float(), above.float(), dim=-1).mean()
        for below, above in pairwise(states)
    ]
    return torch.stack(turns).mean()


@contextmanager
def _given(layer: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Inside, a layer takes this hidden state in the place of its own."""

    def instead(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (hidden, *inputs[1:])

    hook = layer.register_forward_pre_hook(instead)
    try:
        yield
    finally:
        hook.remove()
