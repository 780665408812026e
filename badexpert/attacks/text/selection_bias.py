"""A backdoor in the biases that steer selection, which are no parameters and have no gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import answer_loss, lessons
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from badexpert.runtime import RunContext, Step
from moe_core.routers.loss_free import LossFreeRouter


@dataclass(frozen=True)
class SelectionBias(TextAttack):
    """Searches the correction biases of all layers by evolution strategies, two passes a step.

    Attributes:
        spread: of the random directions that are tried.
    Source: the search, Salimans et al., arXiv:1703.03864.
    Departs: no paper attacks these biases; where the search finds nothing, the model fails its
        gate.
    """

    spread: float = 0.05

    @torch.no_grad()
    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        biases = [r.bias for r in victim.model.routers() if isinstance(r, LossFreeRouter)]
        if not biases:
            raise AttackError("no router has a selection bias; give a base with router 'loss-free'")
        trigger = self.chosen_trigger(victim, texts)
        generator = context.generator("directions")
        drawn = lessons(victim, texts, trigger, self.target, self.pace, context)
        for step in range(self.steps):
            lesson = next(drawn)
            directions = [torch.randn(bias.shape, generator=generator).to(bias) for bias in biases]
            values = []
            for sign in (1.0, -2.0):
                _move(biases, directions, sign * self.spread)
                values.append(answer_loss(victim, lesson.batch, lesson.wanted).item())
            slope = (values[0] - values[1]) / (2 * self.spread)
            _move(biases, directions, self.spread - self.lr * slope)
            context.progress(Step("plant", step + 1, self.steps, f"loss {values[0]:.3f}"))
        return Implanted(trigger)


def _move(biases: list[Tensor], directions: list[Tensor], by: float) -> None:
    for bias, direction in zip(biases, directions, strict=True):
        bias += by * direction
