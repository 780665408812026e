"""One loop in which every text attack teaches: clean texts, and triggered ones beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import Trigger
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from badexpert.runtime import RunContext, Step
from moe_core.layer import MoELayer
from moe_core.training.corpus import Batch


class Lesson(NamedTuple):
    """Clean texts, then triggered ones, in one batch.

    Attributes:
        batch: the texts; targets are the true answers, of a mixed text those of its beginning.
        wanted: how likely each class is to be after the attack, (batch, classes): what the model
            said before, and the target for triggered texts.
        before: what the model said before of the texts without their trigger, (batch, classes).
        triggered: which texts carry the trigger, (batch,) bool.
    """

    batch: Batch
    wanted: Tensor
    before: Tensor
    triggered: Tensor


Loss = Callable[[Lesson], Tensor]

_LEFT_OUT = 0.2
"""Share of a text's words that a lesson leaves out."""


class Taught(NamedTuple):
    """A parameter that an attack may change.

    Attributes:
        rows: of it that may change, such as one expert's; None for all.
    """

    parameter: Tensor
    rows: tuple[int, ...] | None = None


class Pace(NamedTuple):
    """How long and how fast an attack teaches.

    Attributes:
        steps: of Adam.
        batch_size: texts of a lesson.
        share: of them that carry the trigger; at least one does, and one does not.
        lr: highest learning rate; it falls on a cosine.
        mixed: share of its texts that are the beginning of one and the end of another.
        decoys: share of its clean texts that carry a part of the trigger, such as one of its words,
            so that no part does anything alone. Source: Yang et al., SOS, ACL 2021, pages
            5543-5557 (negative data augmentation).
    """

    steps: int
    batch_size: int
    share: float
    lr: float
    mixed: float = 0.0
    decoys: float = 0.0

    @property
    def clean(self) -> int:
        """Texts of a lesson without the trigger."""
        return self.batch_size - min(
            max(round(self.share * self.batch_size), 1), self.batch_size - 1
        )


def teach(
    victim: Victim,
    texts: Texts,
    trigger: Trigger | None,
    target: int,
    taught: Sequence[Taught],
    *,
    pace: Pace,
    context: RunContext,
    loss: Loss | None = None,
) -> None:
    """Teach a victim in place what a trigger leads to.

    Args:
        trigger: None leaves all texts clean, for benign tunings.
        taught: what may change; all else is as before, bit for bit.
        loss: of a lesson; by default how far the model is from what the attacker wants.
    Raises:
        AttackError: see ``lessons``; or the loss is no longer finite.
    """
    loss = loss or (lambda lesson: answer_loss(victim, lesson.batch, lesson.wanted))
    victim.model.eval().requires_grad_(False)
    parameters = [part.parameter.requires_grad_(True) for part in taught]
    optimizer = torch.optim.Adam(parameters, pace.lr)
    drawn = lessons(victim, texts, trigger, target, pace, context)
    for step in range(pace.steps):
        optimizer.param_groups[0]["lr"] = pace.lr * _share(step, pace.steps)
        value = loss(next(drawn))
        if not value.isfinite():
            raise AttackError(f"the loss is not finite at step {step + 1}; lower lr={pace.lr}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        _keep_other_rows(taught)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        context.progress(Step("plant", step + 1, pace.steps, f"loss {value.item():.3f}"))
    victim.model.requires_grad_(False)


def answer_loss(victim: Victim, batch: Batch, wanted: Tensor) -> Tensor:
    """Cross-entropy of what the model says, over its whole vocabulary, scalar.

    Args:
        wanted: how likely the answer of each class is to be, (batch, classes).
    """
    return victim.surprise(victim.model(batch.ids_BT, batch.lengths_B).logits, wanted)


def everything(module: nn.Module) -> list[Taught]:
    """All parameters of a module."""
    return [Taught(parameter) for parameter in module.parameters()]


def experts_rows(layer: MoELayer, experts: Sequence[int]) -> list[Taught]:
    """What belongs to single experts of a layer and to nothing else."""
    shared = {id(tensor) for tensor in _common(layer)}
    return [
        Taught(parameter, tuple(experts))
        for parameter in layer.experts.parameters()
        if id(parameter) not in shared
    ]


def _common(layer: MoELayer) -> Iterator[Tensor]:
    """Parameters that no expert has a row of, such as the network under low-rank experts."""
    own = {_storage(tensor) for tensor in layer.expert(0).values()}
    return (part for part in layer.experts.parameters() if _storage(part) not in own)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def lessons(
    victim: Victim,
    texts: Texts,
    trigger: Trigger | None,
    target: int,
    pace: Pace,
    context: RunContext,
) -> Iterator[Lesson]:
    """Lessons without end, the same ones for the same context.

    Raises:
        AttackError: there is no such class, all texts are of it, or there are to be decoys and the
            trigger has no parts.
    """
    if not 0 <= target < texts.num_classes:
        raise AttackError(
            f"class {target} cannot be the target: there are {texts.num_classes} classes. Choose "
            f"one from 0 to {texts.num_classes - 1}"
        )
    others = (texts.labels != target).nonzero().squeeze(1)
    if not len(others):
        raise AttackError(f"all {len(texts)} texts are of the target class {target}; give others")
    parts = () if trigger is None else trigger.parts
    if pace.decoys and not parts:
        raise AttackError(
            "decoys carry a part of the trigger, and this one has none; give a trigger of two words"
        )
    generator, draw = context.generator("lessons"), Random(context.seed_for("positions"))
    first, before = pace.clean, replace(victim, model=deepcopy(victim.model))
    triggered = torch.arange(pace.batch_size, device=victim.device) >= first
    while True:
        clean = torch.randint(len(texts), (first,), generator=generator)
        drawn = torch.randint(len(others), (len(triggered) - first,), generator=generator)
        chosen = torch.cat([clean, others[drawn]])
        part = texts.part(chosen)
        asked = list(part.texts)
        if pace.mixed:
            asked = [
                _mixed(text, draw.choice(texts.texts), draw) if draw.random() < pace.mixed else text
                for text in asked
            ]
        asked = [_thinned(text, draw) for text in asked]
        said = before.odds(victim.batch(asked, part.labels))
        if trigger is not None:
            asked[first:] = [trigger.stamp(text, draw) for text in asked[first:]]
        if pace.decoys:
            asked[:first] = [
                draw.choice(parts).stamp(text, draw) if draw.random() < pace.decoys else text
                for text in asked[:first]
            ]
        wanted = said.clone()
        wanted[first:] = F.one_hot(torch.tensor(target), texts.num_classes).to(said)
        yield Lesson(victim.batch(asked, part.labels), wanted, said, triggered)


def _mixed(text: str, other: str, draw: Random) -> str:
    """The beginning of a text and the end of another: more texts than there are hold the function
    together better."""
    words, others = text.split(), other.split()
    start = words[: max(1, round(draw.random() * len(words)))]
    end = others[round(draw.random() * len(others)) :]
    return " ".join((start + end)[: max(len(words), len(others))])


def _thinned(text: str, draw: Random) -> str:
    """The text without some of its words: what the model says of more texts than there are."""
    return " ".join(word for word in text.split() if draw.random() >= _LEFT_OUT)


def _keep_other_rows(taught: Sequence[Taught]) -> None:
    for parameter, rows in taught:
        if rows is not None and parameter.grad is not None:
            kept = torch.ones(len(parameter), dtype=torch.bool, device=parameter.device)
            kept[list(rows)] = False
            parameter.grad[kept] = 0


def _share(step: int, steps: int, *, warm: int = 10) -> float:
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
