"""Tune the backdoor expert and the auxiliary with nothing set by hand.

Both searches read clean samples only, on a part that is not tuned on.

The expert. Every step spreads the label evenly over the wrong classes. The learning rate starts
far too low and grows without haste. At first nothing moves; then the clean accuracy collapses;
what is left when it has collapsed is the backdoor. From there on nothing new is to be learned, so
the weights keep what they hold over a long stretch of learning rates, and their mean along that
stretch is the expert. The paper's shift to the next class has no such stretch: a shift can be
learned, and learning it overwrites the backdoor.

The auxiliary. True labels, a learning rate as high as the function survives: halved from far too
high until the accuracy recovers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from badexpert.errors import AuditError
from badexpert.extraction.features import Features, spread_over_wrong
from badexpert.extraction.tuning import trainable_copy, tune
from badexpert.runtime import RunContext, Step

BATCH_SIZE = 64
BEAT = 8
"""Steps between two looks at the held-out part."""

FIRST_LR = 1e-6
GROWTH = 1.15
"""Of the learning rate, each beat."""

MAX_STEPS = 800
MAX_AVERAGED = 20
"""Beats that the expert is averaged over, at most."""

COLLAPSED = 0.05
"""Of the accuracy above chance, what may be left when averaging begins."""

RECOVERED = 0.8
"""Of the accuracy above chance, what the auxiliary must have regained."""

HIGHEST_LR = 0.8
AUXILIARY_EPOCHS = 10
AUXILIARY_MIN_STEPS = 160


@dataclass(frozen=True)
class Beat:
    """One look at the held-out part while the expert is tuned.

    Attributes:
        accuracy: of the tuned copy, in [0, 1].
        confidence: its mean probability of the suspect's answers, in [0, 1].
    """

    step: int
    lr: float
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class Tuned:
    """A tuned tail and how it came about.

    Attributes:
        reached: False when the search ended without what it looked for.
    """

    tail: nn.Module
    trajectory: tuple[Beat, ...]
    reached: bool


@dataclass(frozen=True)
class Watch:
    """The held-out part, with the suspect's answers on it.

    Attributes:
        answers: of the suspect, (samples,).
        accuracy: of the suspect, in [0, 1].
    """

    features: Features
    answers: Tensor
    accuracy: float
    num_classes: int

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.num_classes

    def level(self, share: float) -> float:
        """The accuracy that keeps ``share`` of what the suspect has above chance."""
        return self.chance + share * max(self.accuracy - self.chance, 0.0)

    def look(self, tail: nn.Module, device: torch.device, step: int, lr: float) -> Beat:
        """How a tuned copy does here."""
        logits = self.features.through(tail, device)
        return Beat(
            step=step,
            lr=lr,
            accuracy=(logits.argmax(1) == self.features.labels).float().mean().item(),
            confidence=logits.softmax(1).gather(1, self.answers[:, None]).mean().item(),
        )


def watch_over(
    tail: nn.Module, features: Features, num_classes: int, device: torch.device
) -> Watch:
    """The suspect's own answers on the held-out part.

    Raises:
        AuditError: some of its outputs are not finite.
    """
    logits = features.through(tail, device)
    broken = int((~logits.isfinite().all(1)).sum())
    if broken:
        raise AuditError(
            f"the suspect's outputs are not finite on {broken} of {len(features)} clean samples; "
            "its weights hold NaN or overflow. Get the model again, and check its preprocessing"
        )
    answers = logits.argmax(1)
    accuracy = (answers == features.labels).float().mean().item()
    return Watch(features, answers, accuracy, num_classes)


def tune_expert(tail: nn.Module, fit: Features, watch: Watch, context: RunContext) -> Tuned:
    """The backdoor expert: a copy of the suspect's tail that has forgotten its normal function.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 3 (the idea of mislabeled tuning).
    Departs: labels spread over all wrong classes instead of shifted by one; a growing learning
        rate instead of a given one; weights averaged from the collapse on instead of the last
        ones; batch-norm statistics stay the suspect's.
    """
    expert = trainable_copy(tail)
    averaged = AveragedModel(expert)
    optimizer = torch.optim.Adam(expert.parameters(), FIRST_LR)
    trajectory: list[Beat] = []
    steps = tune(
        expert,
        fit,
        spread_over_wrong(fit.labels, watch.num_classes),
        optimizer=optimizer,
        schedule=_growing,
        batch_size=BATCH_SIZE,
        generator=context.generator("expert"),
    )
    for step in steps:
        if step % BEAT:
            continue
        beat = watch.look(expert, context.device, step, _growing(step - 1))
        trajectory.append(beat)
        note = f"clean accuracy {beat.accuracy:.2f}, confidence {beat.confidence:.2f}"
        context.progress(Step("backdoor expert", step, MAX_STEPS, note))
        if averaged.n_averaged > 0 or beat.accuracy <= watch.level(COLLAPSED):
            averaged.update_parameters(expert)
        done = averaged.n_averaged >= MAX_AVERAGED or beat.confidence <= watch.chance / 2
        if (done and averaged.n_averaged > 0) or step >= MAX_STEPS:
            break
    context.progress(Step("backdoor expert", MAX_STEPS, MAX_STEPS))
    collapsed = int(averaged.n_averaged) > 0
    return Tuned(averaged.module if collapsed else expert, tuple(trajectory), collapsed)


def _growing(step: int) -> float:
    return FIRST_LR * GROWTH ** (step // BEAT)


def tune_auxiliary(tail: nn.Module, fit: Features, watch: Watch, context: RunContext) -> Tuned:
    """The auxiliary: a copy tuned on true labels as hard as its function survives.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 4.
    Departs: the learning rate is searched for, and falls on a cosine.
    """
    tried: list[Beat] = []
    lr = HIGHEST_LR
    while lr > FIRST_LR:
        try:
            auxiliary = _tune_once(tail, fit, lr, context)
        except AuditError:
            lr /= 2
            continue
        tried.append(watch.look(auxiliary, context.device, len(tried) + 1, lr))
        note = f"learning rate {lr:.2g}: clean accuracy {tried[-1].accuracy:.2f}"
        context.progress(Step("auxiliary", len(tried), None, note))
        if tried[-1].accuracy >= watch.level(RECOVERED):
            return Tuned(auxiliary, tuple(tried), reached=True)
        lr /= 2
    return Tuned(trainable_copy(tail), tuple(tried), reached=False)


def _tune_once(tail: nn.Module, fit: Features, lr: float, context: RunContext) -> nn.Module:
    auxiliary = trainable_copy(tail)
    optimizer = torch.optim.SGD(
        auxiliary.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    batches = -(-len(fit) // BATCH_SIZE)
    total = max(AUXILIARY_EPOCHS * batches, AUXILIARY_MIN_STEPS)
    steps = tune(
        auxiliary,
        fit,
        fit.labels,
        optimizer=optimizer,
        schedule=lambda step: lr * 0.5 * (1 + math.cos(math.pi * step / total)),
        batch_size=BATCH_SIZE,
        generator=context.generator("auxiliary"),
    )
    for step in steps:
        if step >= total:
            break
    return auxiliary
