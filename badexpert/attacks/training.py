"""Train a classifier on images, clean or poisoned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from badexpert.attacks.poisoning import PoisonedImages
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
        mixed_precision: bfloat16 autocast in the forward pass, where the device computes in it.
    """

    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    crop: int = 0
    flip: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")


def train(
    module: nn.Module, data: PoisonedImages, *, training: Training, context: RunContext
) -> nn.Module:
    """Train ``module`` in place.

    Args:
        module: maps (batch, channels, height, width) in [0, 1] to logits (batch, classes).
    Returns:
        The same module, in eval mode, on the context's device.
    """
    module.to(context.device)
    layout = _fast_layout(module, data.batch(torch.arange(len(data))[:2], context.device)[0])
    module.train()
    generator = context.generator("order")
    size = training.batch_size
    # A last batch of a single sample is left out: batch-norm cannot take it.
    each_epoch = max((len(data) + size - 2) // size, 1)
    steps = training.epochs * each_epoch
    mixed = training.mixed_precision and computes_bfloat16(context.device)
    optimizer = _optimizer(module, training)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, total_steps=steps)
    done = 0
    for _ in range(training.epochs):
        order = torch.randperm(len(data), generator=generator)
        for indices in order.split(size)[:each_epoch]:
            pixels, labels = data.batch(indices, context.device)
            pixels = crop_and_flip(
                pixels, crop=training.crop, flip=training.flip, generator=generator
            ).contiguous(memory_format=layout)
            with (
                torch.autocast(context.device.type, torch.bfloat16, mixed),
                context.seeded(f"dropout {done}"),
            ):
                logits = module(pixels)
            loss = cross_entropy(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done % 10 == 0 or done == steps:
                context.progress(Step("train", done, steps, f"loss {loss.item():.3f}"))
    return module.eval()


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


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
