"""Extraction exactly as the paper's authors run it, with the settings they give by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from badexpert.augmentation import crop_and_flip
from badexpert.cleanset import mislabel
from badexpert.config import PaperConfig
from badexpert.extraction.features import Features
from badexpert.extraction.tuning import trainable_copy, tune
from badexpert.runtime import RunContext, Step


@dataclass(frozen=True)
class _Plan:
    task: str
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    lr_of_epoch: Callable[[int], float]
    epochs: int
    batch_size: int


def tune_expert_as_published(
    network: nn.Module, fit: Features, num_classes: int, paper: PaperConfig, context: RunContext
) -> nn.Module:
    """One epoch of Adam on labels shifted by one; batch-norm in train mode.

    Source: Xie et al., ICLR 2024, arXiv:2308.12439; the settings are those of its public code.
    Departs: the code picks the epoch by test accuracy; this takes the last one.
    """
    plan = _Plan(
        task="backdoor expert",
        optimizer=lambda parameters: torch.optim.Adam(parameters, paper.expert_lr),
        lr_of_epoch=lambda epoch: paper.expert_lr,
        epochs=paper.expert_epochs,
        batch_size=paper.expert_batch_size,
    )
    shifted = mislabel(fit.labels, num_classes=num_classes)
    return _run(plan, network, fit, shifted, paper, context)


def tune_auxiliary_as_published(
    network: nn.Module, fit: Features, paper: PaperConfig, context: RunContext
) -> nn.Module:
    """Ten epochs of SGD on true labels, decayed at epochs 2, 4, 6 and 8.

    Source: as for the expert.
    """
    plan = _Plan(
        task="auxiliary",
        optimizer=lambda parameters: torch.optim.SGD(
            parameters, paper.auxiliary_lr, momentum=0.9, nesterov=True, weight_decay=1e-4
        ),
        lr_of_epoch=lambda epoch: paper.auxiliary_lr * paper.auxiliary_decay ** min(epoch // 2, 4),
        epochs=paper.auxiliary_epochs,
        batch_size=paper.auxiliary_batch_size,
    )
    return _run(plan, network, fit, fit.labels, paper, context)


def _run(
    plan: _Plan,
    network: nn.Module,
    fit: Features,
    targets: Tensor,
    paper: PaperConfig,
    context: RunContext,
) -> nn.Module:
    tuned = trainable_copy(network).train()
    batches = -(-len(fit) // plan.batch_size)
    total = plan.epochs * batches
    draws = context.generator(f"{plan.task} augmentation")
    steps = tune(
        tuned,
        fit,
        targets,
        optimizer=plan.optimizer(tuned.parameters()),
        schedule=lambda step: plan.lr_of_epoch(step // batches),
        batch_size=plan.batch_size,
        generator=context.generator(plan.task),
        augment=lambda pixels: crop_and_flip(
            pixels, crop=paper.crop, flip=paper.flip, generator=draws
        ),
    )
    with context.seeded(f"{plan.task} dropout"):
        for step in steps:
            context.progress(Step(plan.task, step, total))
            if step >= total:
                break
    return tuned.eval()
