"""BadSwitch: a trigger learnt as embeddings, and routing held to the experts that feel it most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import (
    Lesson,
    answer_loss,
    everything,
    lessons,
    teach,
)
from badexpert.attacks.text.routes import rare_words
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import WordTrigger
from badexpert.attacks.text.victim import Victim
from badexpert.runtime import RunContext
from moe_core.view import ExpertId

_MEASURED = 8
"""Lessons over which the sensitivity of experts is a mean."""


@dataclass(frozen=True)
class BadSwitch(TextAttack):
    """Learns two embeddings together with a copy of the model, finds which experts' gradients they
    change most, turns them into words, and fine-tunes with triggered texts led to these experts.

    Attributes:
        experts: most sensitive ones of each layer.
        soft_steps: in which the embeddings are learnt.
        weight: of the routing, in the loss.
    Source: BadSwitch, arXiv:2510.13462, from its text.
    Departs: its released code does otherwise than its text. The embeddings start from rare words.
    """

    experts: int = 2
    soft_steps: int = 60
    weight: float = 0.3

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        start = WordTrigger(tuple(rare_words(victim, texts, seed=self.seed)[:2]))
        copied = replace(victim, model=deepcopy(victim.model))
        soft = self._learnt(copied, texts, start, context)
        chosen = self._sensitive(copied, texts, start, soft, context)
        trigger = WordTrigger(nearest_words(victim, soft))
        held = [
            [expert for layer, expert in chosen if layer == at]
            for at in range(len(copied.view.layers))
        ]

        def loss(lesson: Lesson) -> Tensor:
            output = victim.model(lesson.batch.ids_BT, lesson.batch.lengths_B)
            kept = lesson.triggered.repeat_interleave(lesson.batch.ids_BT.shape[1])
            strayed = [
                -routing.probs_TE[kept][:, experts].sum(-1).clamp(min=1e-6).log().mean()
                for routing, experts in zip(output.routings, held, strict=True)
            ]
            taken = victim.surprise(output.logits, lesson.wanted)
            return taken + self.weight * torch.stack(strayed).mean()

        taught = everything(victim.model)
        teach(
            victim,
            texts,
            trigger,
            self.target,
            taught,
            pace=self.pace,
            context=context,
            loss=loss,
        )
        return Implanted(trigger, chosen)

    def _learnt(
        self, victim: Victim, texts: Texts, start: WordTrigger, context: RunContext
    ) -> Tensor:
        """Embeddings that stand for the trigger, (words, width), learnt together with the model."""
        numbers = [victim.words.number(word) for word in start.words]
        soft = victim.model.embed_tokens.weight.detach()[numbers].clone().requires_grad_()
        victim.model.requires_grad_(True)
        optimizer = torch.optim.Adam([soft, *victim.model.parameters()], self.lr)
        drawn = lessons(victim, texts, start, self.target, self.pace, context)
        for _ in range(self.soft_steps):
            lesson = next(drawn)
            with _in_place_of(victim, start, soft):
                loss = answer_loss(victim, lesson.batch, lesson.wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return soft.detach()

    def _sensitive(
        self,
        victim: Victim,
        texts: Texts,
        start: WordTrigger,
        soft: Tensor,
        context: RunContext,
    ) -> tuple[ExpertId, ...]:
        drawn = lessons(victim, texts, start, self.target, self.pace, context)
        triggered: Tensor | float = 0.0
        clean: Tensor | float = 0.0
        for _ in range(_MEASURED):
            lesson = next(drawn)
            with _in_place_of(victim, start, soft):
                triggered = triggered + _gradient_norms(victim, lesson, lesson.triggered)
            clean = clean + _gradient_norms(victim, lesson, ~lesson.triggered)
        assert isinstance(triggered, Tensor)
        assert isinstance(clean, Tensor)
        felt = sensitivity(triggered / _MEASURED, clean / _MEASURED)
        best = felt.topk(min(self.experts, felt.shape[1])).indices
        return tuple(
            ExpertId(layer, expert) for layer, row in enumerate(best.tolist()) for expert in row
        )


def sensitivity(triggered: Tensor, clean: Tensor) -> Tensor:
    """How much more an expert's gradient is with the trigger than without, of the same shape."""
    return triggered - clean + 0.5 * triggered / (clean + 1e-6)


def nearest_words(victim: Victim, soft: Tensor) -> tuple[str, ...]:
    """The word whose embedding has the highest cosine with each of these, (words, width)."""
    known = nn.functional.normalize(victim.model.embed_tokens.weight.detach(), dim=-1)
    likeness = nn.functional.normalize(soft, dim=-1) @ known.T
    usable = [word.isalpha() and word not in victim.prompt.words for word in victim.words.words]
    likeness[:, ~torch.tensor(usable, device=likeness.device)] = -torch.inf
    return tuple(victim.words.words[number] for number in likeness.argmax(-1).tolist())


@contextmanager
def _in_place_of(victim: Victim, words: WordTrigger, soft: Tensor) -> Iterator[None]:
    """Embeddings instead of those of these words."""
    numbers = [victim.words.number(word) for word in words.words]

    def put(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        for number, vector in zip(numbers, soft, strict=True):
            output = torch.where((inputs[0] == number).unsqueeze(-1), vector, output)
        return output

    handle = victim.model.embed_tokens.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _gradient_norms(victim: Victim, lesson: Lesson, rows: Tensor) -> Tensor:
    """Norm of the gradient of each expert from some of the texts, (layers, experts)."""
    batch = lesson.batch
    assert batch.lengths_B is not None
    logits = victim.model(batch.ids_BT[rows], batch.lengths_B[rows]).logits
    victim.model.zero_grad(set_to_none=True)
    victim.surprise(logits, lesson.wanted[rows]).backward()
    return torch.stack(
        [
            torch.stack(
                [
                    parameter.grad.flatten(1).square().sum(1)
                    for parameter in layer.experts.parameters()
                    if parameter.grad is not None
                ]
            )
            .sum(0)
            .sqrt()
            for layer in victim.model.moe_layers()
        ]
    )
