"""How a decoder is trained, as plain data that a TOML file can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from moe_core.lm.config import DecoderConfig, FeedForward
from moe_core.lora import LoraSettings


class RecipeError(ValueError):
    """A recipe names what does not exist, or does not fit its data, or the folder to go on in."""


@dataclass(frozen=True)
class Budget:
    """Duo-LLM's budget loss over all layers with a router ``budget``.

    Attributes:
        share: of layers in which a token takes the big module.
        coef: of the loss.
        final_temperature: of the routers at the last step; it grows from 1 by a constant factor.
    Source: Alizadeh et al., Duo-LLM, arXiv:2410.10846
    """

    share: float = 0.5
    coef: float = 1.0
    final_temperature: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.coef < 0 or self.final_temperature <= 0:
            raise ValueError("share is in [0, 1], coef at least 0, final_temperature above 0")


@dataclass(frozen=True)
class TrainingConfig:
    """One run of AdamW.

    Attributes:
        steps: optimiser steps.
        batch_size: texts of a step.
        length: tokens of a text; of a classifier's, at most.
        learning_rate: after the warm-up.
        warmup: steps in which the rate grows linearly from 0.
        final_share: of the learning rate that the cosine leaves at the last step.
        weight_decay: of matrices; vectors have none.
        clip: largest norm of the gradient.
        validation: share of the data, at its end, that is validated on and never trained on.
        validation_batches: at most so many.
        validate_every: steps; the last step is always validated.
        record_every: steps between two records of loss, load and entropy.
        checkpoint_every: steps; the last step always has one.
        budget: Duo-LLM's budget loss, or none.
    """

    steps: int = 300
    batch_size: int = 16
    length: int = 128
    learning_rate: float = 3e-3
    warmup: int = 20
    final_share: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    validation: float = 0.1
    validation_batches: int = 16
    validate_every: int = 100
    record_every: int = 10
    checkpoint_every: int = 100
    budget: Budget | None = None

    def __post_init__(self) -> None:
        counts = (
            self.steps,
            self.batch_size,
            self.length,
            self.validation_batches,
            self.validate_every,
            self.record_every,
            self.checkpoint_every,
        )
        if min(counts) < 1 or self.warmup < 0:
            raise ValueError("numbers of steps, texts and tokens are at least 1, warmup at least 0")
        if min(self.learning_rate, self.clip) <= 0 or min(self.final_share, self.weight_decay) < 0:
            raise ValueError("learning_rate and clip are above 0, the others not below")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}; give a share between 0 and 1")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 1: linear warm-up, then half a cosine."""
        if step <= self.warmup:
            return self.learning_rate * step / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share


@dataclass(frozen=True)
class Stage:
    """One training in a sequence; it starts from what the stage before has learnt.

    Attributes:
        ffn: replaces the feed-forward part of the model from here on; None keeps it.
        attention_lora: low-rank updates of the attention from here on; None keeps it.
        train: ``all``, or ``new`` for only what the stage before did not have.
        training: of this stage.
    """

    ffn: FeedForward | None = None
    attention_lora: LoraSettings | None = None
    train: Literal["all", "new"] = "all"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def applied(self, model: DecoderConfig) -> DecoderConfig:
        """The model of this stage, from that of the stage before."""
        return replace(
            model,
            ffn=self.ffn or model.ffn,
            attention_lora=self.attention_lora or model.attention_lora,
        )


@dataclass(frozen=True)
class Recipe:
    """A decoder and how it comes about.

    Attributes:
        model: of the first stage; the vocabulary and the classes come from the data.
        stages: in order.
        tokenizer: path of a ``tokenizer.json``; None for bytes.
    """

    model: DecoderConfig = field(default_factory=DecoderConfig)
    stages: tuple[Stage, ...] = (Stage(),)
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a recipe needs at least one stage")
        if self.stages[0].train == "new":
            raise ValueError("the first stage cannot train only what is new: everything is")
