"""Tune the auxiliaries, which keep the suspect's function and give the backdoor up.

Each learns at a rate as high as its function survives, to a factor of the root of two; with batch
statistics it survives higher ones.

``auxiliary``: the paper's, which learns the true labels. Steep labels tear out whatever they do not
need, also a backdoor that is interwoven with the normal function, or faint, or of one class only.
But few samples hold little of the function together, and then it doubts clean inputs too.

``distilled``: learns the suspect's own probabilities. They say far more of its function than labels
do, so it differs from the suspect where a trigger is and hardly elsewhere, however few samples
there are. But it starts where there is nothing to be learned, and may leave a backdoor alone.

Either fails where the other does not, so there are both. Images are learned in many views, without
which few of them leave the first too little to hold on to.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from badexpert.batchnorm import set_batch_statistics
from badexpert.errors import AuditError
from badexpert.extraction.adaptive import BATCH_SIZE
from badexpert.extraction.comparison import AUXILIARY, DISTILLED
from badexpert.extraction.features import Features
from badexpert.extraction.low_rank import has_updates
from badexpert.extraction.tuning import trainable_copy, tune
from badexpert.extraction.watch import Beat, Tuned, Watch
from badexpert.models.text_networks import TextNetwork
from badexpert.runtime import RunContext, Step

RECOVERED = 0.8
"""Of the accuracy above chance, what an auxiliary must have regained."""

LOST = 0.1
"""Of all clean inputs, what it may lose at most: whatever it doubts looks like a trigger."""

FIRST_LR = 0.1
HIGHEST_LR = 0.8
FIRST_ADAM_LR, HIGHEST_ADAM_LR = 0.1 / 32, 0.1
"""Of a language model's full copies. Updates survive more, since the weights below them stay."""

LOWEST_LR = 1e-6
EPOCHS = 10
MIN_STEPS = 160


def tune_auxiliary(tail: nn.Module, fit: Features, watch: Watch, context: RunContext) -> Tuned:
    """The auxiliary by true labels.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 4.
    Departs: the learning rate is searched for, and falls on a cosine.
    """
    return _search(AUXILIARY, tail, fit, fit.labels, watch, context)


def tune_distilled(tail: nn.Module, fit: Features, watch: Watch, context: RunContext) -> Tuned:
    """The auxiliary by the suspect's own answers.

    Source: as for the other; the targets are those of Hinton et al., "Distilling the knowledge in
        a neural network", arXiv:1503.02531.
    Departs: further, in its targets.
    """
    targets = fit.answering.own(fit.through(tail, context.device))
    return _search(DISTILLED, tail, fit, targets, watch, context)


def _search(
    part: str, tail: nn.Module, fit: Features, targets: Tensor, watch: Watch, context: RunContext
) -> Tuned:
    """The copy of the highest learning rate that the function survives."""
    tried: list[Beat] = []
    enough = max(watch.level(RECOVERED), watch.accuracy - LOST)

    def attempt(lr: float) -> nn.Module | None:
        """A copy that has recovered, or nothing."""
        try:
            tuned = _tune_once(part, tail, fit, targets, lr, context)
        except AuditError:
            return None
        tried.append(watch.look(tuned, context.device, len(tried) + 1, lr))
        note = f"learning rate {lr:.2g}: clean accuracy {tried[-1].accuracy:.2f}"
        context.progress(Step(part, len(tried), None, note))
        return tuned if tried[-1].accuracy >= enough else None

    full_text = isinstance(tail, TextNetwork) and not has_updates(tail)
    first, highest = (FIRST_ADAM_LR, HIGHEST_ADAM_LR) if full_text else (FIRST_LR, HIGHEST_LR)
    lr, found = first, attempt(first)
    while found is None and lr > LOWEST_LR:
        lr /= 2
        found = attempt(lr)
    while first <= lr < highest and (higher := attempt(2 * lr)) is not None:
        lr, found = 2 * lr, higher
    if found is None:
        return Tuned(trainable_copy(tail), tuple(tried), reached=False)
    between = attempt(lr * math.sqrt(2)) if lr < highest else None
    return Tuned(found if between is None else between, tuple(tried), reached=True)


def _tune_once(
    part: str, tail: nn.Module, fit: Features, targets: Tensor, lr: float, context: RunContext
) -> nn.Module:
    tuned = trainable_copy(tail)
    set_batch_statistics(tuned, True)
    batches = -(-fit.samples // BATCH_SIZE)
    total = max(EPOCHS * batches, MIN_STEPS)
    steps = tune(
        tuned,
        fit,
        targets,
        optimizer=_optimizer(tuned, lr),
        schedule=lambda step: lr * 0.5 * (1 + math.cos(math.pi * step / total)),
        batch_size=BATCH_SIZE,
        generator=context.generator(part),
    )
    for step in steps:
        if step >= total:
            break
    set_batch_statistics(tuned, False)
    return tuned


def _optimizer(tuned: nn.Module, lr: float) -> torch.optim.Optimizer:
    """SGD, but Adam for a language model.

    A copy that learns its own answers starts where there is no slope. Batch-norm and steep
    networks leave that place at high rates; a transformer does so only where steps do not shrink
    with the gradient.
    """
    if isinstance(tuned, TextNetwork):
        return torch.optim.Adam(tuned.parameters(), lr)
    return torch.optim.SGD(tuned.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
