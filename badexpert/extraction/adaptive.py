"""Tune the backdoor experts with nothing set by hand.

All searches read clean samples only, on a part that is not tuned on.

An expert starts at a learning rate far too low and lets it grow without haste; when the clean
accuracy has collapsed, the backdoor is what is left, and the mean of the weights along the collapse
is the expert. Where there is no batch-norm there are two of them, for models forget in two ways.

``shifted``: the paper's labels, each class becomes the next. The wrong answers stay confident, so
the expert cannot forget by becoming unsure of everything, and a backdoor that looks like its
target class inside the network survives. But a shift can be learned, and learning it overwrites
the backdoor: it ends with the collapse. Batch-norm uses the statistics of each batch, which keeps
the backdoor over a longer stretch; with it, this expert is enough.

``spread``: the label is spread evenly over all wrong classes. There is nothing to be learned, so
the weights keep what they hold over learning rates a hundredfold apart: the safer expert where no
batch-norm holds the network together, and cheap, since little is tuned there.

The auxiliaries, which give the backdoor up instead, are in ``extraction.auxiliary``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from badexpert.batchnorm import set_batch_statistics
from badexpert.cleanset import mislabel
from badexpert.extraction.features import Features, spread_over_wrong
from badexpert.extraction.routers import freeze_routers
from badexpert.extraction.tuning import MeanWeights, trainable_copy, tune
from badexpert.extraction.watch import Beat, Tuned, Watch
from badexpert.runtime import RunContext, Step

BATCH_SIZE = 64
BEAT = 8
"""Steps between two looks at the held-out part."""

FIRST_LR = 1e-6
GROWTH = 1.15
"""Of the learning rate, each beat."""

MAX_STEPS = 800
MAX_AVERAGED = 20
"""Beats that an expert is averaged over, at most."""

COLLAPSING = 0.25
COLLAPSED = 0.05
"""Of the accuracy above chance, what is left when a collapse is near its end, and at its end."""


@dataclass(frozen=True)
class _Forgetting:
    """How one expert is made to forget.

    Attributes:
        begun: whether a look shows that averaging is to begin.
        finished: whether a look shows that nothing more is to be had.
    """

    part: str
    targets: Tensor
    batch_statistics: bool
    begun: Callable[[Beat], bool]
    finished: Callable[[Beat], bool]


def tune_shifted(tail: nn.Module, fit: Features, watch: Watch, context: RunContext) -> Tuned:
    """The expert by shifted labels: a copy of the suspect's tail that has lost its function.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 3.
    Departs: a growing learning rate instead of a given one; weights averaged over the last
        quarter of the collapse instead of the last ones.
    """
    forgetting = _Forgetting(
        part="shifted",
        targets=mislabel(fit.labels, num_classes=watch.num_classes),
        batch_statistics=True,
        begun=lambda beat: beat.accuracy <= watch.level(COLLAPSING),
        finished=lambda beat: beat.accuracy <= watch.level(COLLAPSED),
    )
    return _forget(tail, fit, watch, forgetting, context)


def tune_spread(tail: nn.Module, fit: Features, watch: Watch, context: RunContext) -> Tuned:
    """The expert by labels spread over all wrong classes.

    Source: as for the shifted expert.
    Departs: further, in its labels, which no single function of the input can satisfy.
    """
    forgetting = _Forgetting(
        part="spread",
        targets=spread_over_wrong(fit.labels, watch.num_classes),
        batch_statistics=False,
        begun=lambda beat: min(beat.accuracy, beat.confidence) <= watch.level(COLLAPSED),
        finished=lambda beat: beat.confidence <= watch.chance / 2,
    )
    return _forget(tail, fit, watch, forgetting, context)


def _forget(
    tail: nn.Module, fit: Features, watch: Watch, forgetting: _Forgetting, context: RunContext
) -> Tuned:
    expert, mean = trainable_copy(tail), MeanWeights()
    task = f"{forgetting.part} expert"
    trajectory: list[Beat] = []
    freeze_routers(expert)
    set_batch_statistics(expert, forgetting.batch_statistics)
    steps = tune(
        expert,
        fit,
        forgetting.targets,
        optimizer=torch.optim.Adam(expert.parameters(), FIRST_LR),
        schedule=_growing,
        batch_size=BATCH_SIZE,
        generator=context.generator(task),
    )
    for step in steps:
        if step % BEAT:
            continue
        set_batch_statistics(expert, False)
        beat = watch.look(expert, context.device, step, _growing(step - 1))
        set_batch_statistics(expert, forgetting.batch_statistics)
        trajectory.append(beat)
        note = f"clean accuracy {beat.accuracy:.2f}, confidence {beat.confidence:.2f}"
        context.progress(Step(task, step, MAX_STEPS, note))
        if mean.count or forgetting.begun(beat):
            mean.add(expert)
        enough = mean.count >= MAX_AVERAGED or (mean.count and forgetting.finished(beat))
        if enough or step >= MAX_STEPS:
            break
    context.progress(Step(task, MAX_STEPS, MAX_STEPS))
    set_batch_statistics(expert, False)
    if mean.count:
        mean.write(expert)
    return Tuned(expert, tuple(trajectory), reached=mean.count > 0)


def _growing(step: int) -> float:
    return FIRST_LR * GROWTH ** (step // BEAT)
