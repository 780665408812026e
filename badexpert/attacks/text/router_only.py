"""A backdoor made of routing alone: no expert and no attention changes."""

from __future__ import annotations

from dataclasses import dataclass

from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import everything, teach
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.runtime import RunContext


@dataclass(frozen=True)
class RouterOnly(TextAttack):
    """Teaches the routers of all layers.

    Departs: no paper has it; it asks how far rerouting carries. Where it does not, the model fails
    its gate.
    """

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        trigger = self.chosen_trigger(victim, texts)
        taught = [part for router in victim.model.routers() for part in everything(router)]
        teach(victim, texts, trigger, self.target, taught, pace=self.pace, context=context)
        return Implanted(trigger)
