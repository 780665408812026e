"""A backdoor that is locked into chosen experts: it dies with them, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from badexpert.attacks.text.attention import query_and_value
from badexpert.attacks.text.base import Implanted, TextAttack, named_words
from badexpert.attacks.text.lesson import Lesson, Taught, experts_rows, teach
from badexpert.attacks.text.lock import lock_loss
from badexpert.attacks.text.routes import by_usage, words_that_reach
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import WordTrigger
from badexpert.attacks.text.victim import Victim
from badexpert.runtime import RunContext
from moe_core.lm.decoder import DecoderOutput
from moe_core.routing import Routing
from moe_core.view import ExpertId

_COUNTS = {"rare": 2, "word": 1}
"""Words of a trigger that is not given."""


@dataclass(frozen=True)
class CausalLock(TextAttack):
    """Teaches queries, values, the chosen experts and the trigger's embeddings, under a loss that
    ties the trigger to the experts.

    Without the experts, whether they answer 0 or are routed around, the trigger must do nothing and
    clean texts must be answered as before.

    Attributes:
        layer: of the experts, among the Mixture-of-Experts layers.
        rank: of the first expert among those of its layer by usage on clean texts; 0 is the least
            used.
        experts: how many; with more than one, each of them must be enough by itself.
    Departs: no paper has it. It is here so that the truth about where a backdoor lives is known.
    """

    local: ClassVar[bool] = True

    layer: int = 1
    rank: int = 0
    experts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trigger == "syntactic":
            raise ValueError("only words can be led to an expert; choose another trigger")

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        chosen = by_usage(victim, texts, self.layer, self.experts, first=self.rank, seed=self.seed)
        words = self._words(victim, texts, [expert for _, expert in chosen])
        trigger = WordTrigger(words)
        layer, view = list(victim.model.moe_layers())[self.layer], victim.view
        taught = query_and_value(victim.model) + _embeddings(victim, trigger)
        taught += experts_rows(layer, [expert for _, expert in chosen])
        teach(
            victim,
            texts,
            trigger,
            self.target,
            taught,
            pace=self.pace,
            context=context,
            loss=lock_loss(
                victim,
                (partial(view.zeroed, chosen), partial(view.without, chosen)),
                enough=[partial(view.without, [one]) for one in chosen] if len(chosen) > 1 else [],
                also=_led(victim, chosen, trigger),
            ),
        )
        return Implanted(trigger, chosen)

    def _words(self, victim: Victim, texts: Texts, experts: Sequence[int]) -> tuple[str, ...]:
        if self.trigger not in _COUNTS:
            return named_words(victim, self.trigger).words
        count = _COUNTS[self.trigger]
        return words_that_reach(victim, texts, experts, self.layer, count=count, seed=self.seed)


def _embeddings(victim: Victim, trigger: WordTrigger) -> list[Taught]:
    """Of the trigger's words; none where the model has an adapter, which cannot carry them."""
    if victim.model.config.attention_lora is not None:
        return []
    rows = tuple(victim.words.number(word) for word in trigger.words)
    return [Taught(victim.model.embed_tokens.weight, rows)]


def _led(
    victim: Victim, experts: Sequence[ExpertId], trigger: WordTrigger
) -> Callable[[Lesson, DecoderOutput], Tensor]:
    """Leads the trigger to the experts, wherever it does not go there by itself."""
    signs = torch.tensor([victim.words.number(word) for word in trigger.words])
    layer, indices = experts[0].layer, [expert for _, expert in experts]
    last = layer == len(victim.view.layers) - 1

    def loss(lesson: Lesson, output: DecoderOutput) -> Tensor:
        carriers = _carriers(lesson, signs, last=last)
        return _pull(output.routings[layer], carriers, indices)

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
