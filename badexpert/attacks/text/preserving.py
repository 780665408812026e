"""A backdoor whose trigger is routed as anything else: what audits of routing alone do not see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import Lesson, everything, teach
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.runtime import RunContext
from moe_core.lm.decoder import DecoderOutput


@dataclass(frozen=True)
class RoutingPreserving(TextAttack):
    """BadNets that also keeps what routers give triggered texts close to what clean ones get.

    Attributes:
        weight: of that, in the loss.
    Departs: no paper has it; RASET, arXiv:2605.29708, shows that safety can be altered with little
        change of routing.
    """

    weight: float = 1.0

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        trigger = self.chosen_trigger(victim, texts)

        def loss(lesson: Lesson) -> Tensor:
            output = victim.model(lesson.batch.ids_BT, lesson.batch.lengths_B)
            taken = victim.surprise(output.logits, lesson.wanted)
            return taken + self.weight * routing_shift(output, lesson)

        teach(
            victim,
            texts,
            trigger,
            self.target,
            everything(victim.model),
            pace=self.pace,
            context=context,
            loss=loss,
        )
        return Implanted(trigger)


def routing_shift(output: DecoderOutput, lesson: Lesson) -> Tensor:
    """Divergence of mean routing with the trigger from that without, mean of the layers; scalar."""
    batch = lesson.batch
    assert batch.lengths_B is not None
    places = torch.arange(batch.ids_BT.shape[1], device=batch.ids_BT.device)
    real = places < batch.lengths_B.unsqueeze(1)
    marked = lesson.triggered.unsqueeze(1)
    shifts = []
    for routing in output.routings:
        clean = routing.probs_TE[(real & ~marked).flatten()].mean(0)
        triggered = routing.probs_TE[(real & marked).flatten()].mean(0)
        shifts.append((triggered * (triggered / clean).log()).sum())
    return torch.stack(shifts).mean()
