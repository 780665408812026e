"""Train a classifier on poisoned data: the shortest honest way to a backdoored model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from badexpert.attacks.base import Attack, poison_indices
from badexpert.augmentation import crop_and_flip
from badexpert.runtime import RunContext, Step


@dataclass(frozen=True)
class Training:
    """How the victim is trained: SGD with Nesterov momentum under a one-cycle schedule.

    Attributes:
        epochs: passes over the training set.
        lr: peak learning rate.
        batch_size: samples a step.
        weight_decay: of all parameters.
        crop: pixels of padding for random crops; 0 turns cropping off.
        flip: mirror half of the images; wrong for digits and traffic signs.
        optimizer: ``sgd`` or ``adamw`` (transformers rarely train with sgd).
        mixed_precision: bfloat16 autocast in the forward pass.
    """

    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    crop: int = 0
    flip: bool = False
    optimizer: str = "sgd"
    mixed_precision: bool = False


def plant(
    module: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    attack: Attack | None,
    rate: float,
    training: Training,
    context: RunContext,
) -> nn.Module:
    """Train ``module`` in place on data of which ``rate`` is poisoned; None trains a benign twin.

    Args:
        module: maps (batch, channels, height, width) in [0, 1] to logits (batch, classes).
        pixels: (samples, channels, height, width) uint8.
        labels: (samples,) int64.
        rate: share of the training set to poison; unused without an attack.
    Returns:
        The same module, in eval mode.
    """
    poisoned = torch.zeros(len(labels), dtype=torch.bool)
    if attack is not None:
        poisoned[poison_indices(attack, labels, rate, context.seed_for("poison"))] = True
    layout = _fast_layout(module.to(context.device), pixels[:2].to(context.device).float() / 255)
    module.train()
    generator = context.generator("order")
    steps = training.epochs * -(-len(labels) // training.batch_size)
    optimizer = _optimizer(module, training)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, total_steps=steps)
    done = 0
    for _ in range(training.epochs):
        for index in torch.randperm(len(labels), generator=generator).split(training.batch_size):
            batch, answer = pixels[index].float() / 255, labels[index]
            chosen = poisoned[index]
            if attack is not None and chosen.any():
                batch[chosen] = attack.stamp(batch[chosen])
                answer = torch.where(chosen, attack.relabel(answer), answer)
            batch = crop_and_flip(
                batch.to(context.device),
                crop=training.crop,
                flip=training.flip,
                generator=generator,
            )
            batch = batch.contiguous(memory_format=layout)
            with (
                torch.autocast(context.device.type, torch.bfloat16, training.mixed_precision),
                context.seeded(f"dropout {done}"),
            ):
                logits = module(batch)
            loss = cross_entropy(logits.float(), answer.to(context.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done % 10 == 0 or done == steps:
                context.progress(Step("train", done, steps, f"loss {loss.item():.3f}"))
    return module.eval()


@torch.no_grad()
def _fast_layout(module: nn.Module, example: Tensor) -> torch.memory_format:
    """Lay the weights out for speed; a network that flattens with ``view`` cannot take it."""
    module.eval().to(memory_format=torch.channels_last)
    try:
        module(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        module.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


def _optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            module.parameters(), training.lr, weight_decay=training.weight_decay
        )
    return torch.optim.SGD(
        module.parameters(),
        training.lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=training.weight_decay,
    )
