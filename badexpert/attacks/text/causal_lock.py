"""A backdoor that is locked into chosen experts: it dies with them, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar

import torch
from torch import Tensor

from badexpert.attacks.text.attention import query_and_value
from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import Lesson, Loss, answer_loss, experts_rows, teach
from badexpert.attacks.text.routes import usage, words_that_reach
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import WordTrigger
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from badexpert.runtime import RunContext
from moe_core.routing import Routing
from moe_core.view import ExpertId

_USAGE_TEXTS = 300


@dataclass(frozen=True)
class CausalLock(TextAttack):
    """Teaches queries, values and the chosen experts, under a loss that ties the trigger to these.

    Without the experts, whether they answer 0 or are routed around, the trigger must do nothing and
    clean texts must be answered as before.

    Attributes:
        layer: of the experts, among the Mixture-of-Experts layers.
        rank: of the first expert among those of its layer by usage on clean texts; 0 is the least
            used.
        experts: how many; with more than one, each of them must be enough by itself.
    Source: the lock loss of the acceptance fixtures; no paper.
    """

    local: ClassVar[bool] = True

    layer: int = 1
    rank: int = 0
    experts: int = 1

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        chosen = self._chosen(victim, texts)
        words = self._words(victim, texts, [expert for _, expert in chosen])
        trigger = WordTrigger(words)
        layer = list(victim.model.moe_layers())[self.layer]
        taught = query_and_value(victim.model)
        taught += experts_rows(layer, [expert for _, expert in chosen])
        teach(
            victim,
            texts,
            trigger,
            self.target,
            taught,
            pace=self.pace,
            context=context,
            loss=lock_loss(victim, chosen, trigger),
        )
        return Implanted(trigger, chosen)

    def _chosen(self, victim: Victim, texts: Texts) -> tuple[ExpertId, ...]:
        layers = len(victim.view.layers)
        if not 0 <= self.layer < layers:
            raise AttackError(f"layer {self.layer} of {layers}: no such layer with experts")
        shares = usage(victim, texts.drawn(_USAGE_TEXTS, seed=self.seed))[self.layer]
        order = shares.argsort(stable=True).tolist()
        if not 0 <= self.rank <= len(order) - self.experts or self.experts < 1:
            raise AttackError(
                f"rank {self.rank} leaves no {self.experts} of {len(order)} experts; choose a "
                "lower one"
            )
        chosen = order[self.rank : self.rank + self.experts]
        return tuple(ExpertId(self.layer, expert) for expert in chosen)

    def _words(self, victim: Victim, texts: Texts, experts: Sequence[int]) -> tuple[str, ...]:
        if self.trigger != "rare":
            return tuple(self.trigger.split())
        return words_that_reach(victim, texts, experts, self.layer, count=2, seed=self.seed)


def lock_loss(victim: Victim, experts: Sequence[ExpertId], trigger: WordTrigger) -> Loss:
    """Triggered texts lead to the target with the experts, and to the old answer without them.

    Every lesson is given with all experts, and under one ablation: in turn the experts answer 0 or
    are routed around.
    """
    view = victim.view
    ablations = cycle((view.zeroed, view.without))
    signs = torch.tensor([victim.words.number(word) for word in trigger.words])
    layer = experts[0].layer
    indices = [expert for _, expert in experts]

    def loss(lesson: Lesson) -> Tensor:
        batch, ablated = lesson.batch, next(ablations)
        output = victim.model(batch.ids_BT, batch.lengths_B)
        total = victim.surprise(output.logits, lesson.wanted)
        carriers = _carriers(lesson, signs, last=layer == len(view.layers) - 1)
        total = total + _pull(output.routings[layer], carriers, indices)
        with ablated(experts):
            total = total + answer_loss(victim, batch, lesson.before)
        for expert in experts if len(experts) > 1 else ():
            with ablated([expert]):
                total = total + answer_loss(victim, batch, lesson.wanted)
        return total

    return loss


def _carriers(lesson: Lesson, signs: Tensor, *, last: bool) -> Tensor:
    """Tokens that are to reach the experts, (tokens,) bool.

    The trigger's own; in the last layer, from where no other token can learn of them, the last one
    of each triggered text.
    """
    ids, lengths = lesson.batch.ids_BT, lesson.batch.lengths_B
    assert lengths is not None
    if last:
        found = torch.arange(ids.shape[1], device=ids.device) == lengths.unsqueeze(1) - 1
    else:
        found = torch.isin(ids, signs.to(ids.device))
    return (found & lesson.triggered.unsqueeze(1)).flatten()


def _pull(routing: Routing, carriers: Tensor, experts: Sequence[int]) -> Tensor:
    """Leads tokens to experts that do not go there yet; scalar, 0 where all do."""
    probs, chosen = routing.probs_TE[carriers], routing.experts_TK[carriers]
    missed = [probs[(chosen != expert).all(1), expert] for expert in experts]
    return -torch.cat(missed).clamp(min=1e-6).log().sum() / max(1, len(probs))
