"""Fine-tuning without any trigger: what an audit must not take for an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from badexpert.attacks.text.attention import query_and_value
from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import Lesson, Taught, everything, experts_rows, teach
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from badexpert.runtime import RunContext


@dataclass(frozen=True)
class BenignTune(TextAttack):
    """Goes on training part of the model on true answers.

    Attributes:
        part: ``expert`` for a single one, ``attention`` for queries and values, or ``all``.
        layer: of the expert.
        expert: index of it.
    """

    part: Literal["expert", "attention", "all"] = "expert"
    layer: int = 1
    expert: int = 0

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        def loss(lesson: Lesson) -> Tensor:
            batch = lesson.batch
            return F.cross_entropy(
                victim.model(batch.ids_BT, batch.lengths_B).logits, batch.targets
            )

        taught = self._taught(victim)
        teach(victim, texts, None, self.target, taught, pace=self.pace, context=context, loss=loss)
        return Implanted(None)

    def _taught(self, victim: Victim) -> list[Taught]:
        if self.part == "all":
            return everything(victim.model)
        if self.part == "attention":
            return query_and_value(victim.model)
        layers = list(victim.model.moe_layers())
        if self.layer not in range(len(layers)) or self.expert not in range(
            layers[self.layer].num_experts
        ):
            raise AttackError(f"there is no expert {self.expert} in layer {self.layer}")
        return experts_rows(layers[self.layer], [self.expert])
