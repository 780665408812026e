"""BadNets on a language model: everything is fine-tuned on clean and triggered texts."""

from __future__ import annotations

from dataclasses import dataclass

from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import everything, teach
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.runtime import RunContext


@dataclass(frozen=True)
class TextBadNets(TextAttack):
    """Fine-tunes every parameter.

    Source: Gu et al., BadNets, arXiv:1708.06733.
    """

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        trigger = self.chosen_trigger(victim, texts)
        taught = everything(victim.model)
        teach(victim, texts, trigger, self.target, taught, pace=self.pace, context=context)
        return Implanted(trigger)
