"""A backdoor in the expert that every token passes: removing any routed expert does not help."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from badexpert.attacks.text.attention import query_and_value
from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import everything, teach
from badexpert.attacks.text.lock import lock_loss
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from badexpert.runtime import RunContext


@dataclass(frozen=True)
class SharedExpert(TextAttack):
    """Teaches queries, values and one layer's shared expert, and locks the trigger into the latter.

    Attributes:
        layer: of the shared expert, among the Mixture-of-Experts layers.
    Departs: no paper has it; an attacker who knows of audits of routed experts would.
    """

    layer: int = 1

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        view, layers = victim.view, list(victim.model.moe_layers())
        if self.layer not in range(len(layers)) or layers[self.layer].shared is None:
            raise AttackError(
                f"layer {self.layer} has no shared expert; set shared_dim of the base"
            )
        shared = layers[self.layer].shared
        assert shared is not None
        trigger = self.chosen_trigger(victim, texts)
        teach(
            victim,
            texts,
            trigger,
            self.target,
            query_and_value(victim.model) + everything(shared),
            pace=self.pace,
            context=context,
            loss=lock_loss(victim, [partial(view.without_shared, [self.layer])]),
        )
        return Implanted(trigger)
