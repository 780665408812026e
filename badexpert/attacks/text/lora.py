"""Low-rank updates of queries and values: the usual way to fine-tune, and to attack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from badexpert.attacks.text.adapter import LoraUpdates
from badexpert.attacks.text.attention import NAMES, query_and_value
from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.lesson import Taught, teach
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from badexpert.runtime import RunContext
from moe_core.lm.decoder import Decoder
from moe_core.lora import LoraLinear, LoraSettings

SETTINGS = LoraSettings(rank=8, alpha=16.0, dropout=0.0)
"""As the released BadMoE."""


@dataclass(frozen=True)
class LoraQV(TextAttack):
    """Teaches low-rank updates of queries and values of every layer, and nothing else.

    Source: Hu et al., LoRA, arXiv:2106.09685.
    """

    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        trigger = self.chosen_trigger(victim, texts)
        with low_rank(victim.model) as taught:
            teach(victim, texts, trigger, self.target, taught, pace=self.pace, context=context)
            updates = _updates(victim.model)
        return Implanted(trigger, updates=updates)


@contextmanager
def low_rank(model: Decoder) -> Iterator[list[Taught]]:
    """Low-rank updates of queries and values inside the context; merged into them after it.

    Raises:
        AttackError: the model has low-rank updates already.
    """
    places = [(layer.get_submodule("self_attn"), name) for layer in model.layers for name in NAMES]
    for attention, name in places:
        linear = attention.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise AttackError("the attention has low-rank updates already; attack a plain model")
        setattr(attention, name, LoraLinear(linear, SETTINGS))
    try:
        yield query_and_value(model)
    finally:
        for attention, name in places:
            setattr(attention, name, _merged(attention.get_submodule(name)))


def _updates(model: Decoder) -> LoraUpdates:
    return LoraUpdates(
        SETTINGS,
        {
            name: (part.lora_A.detach(), part.lora_B.detach())
            for name, part in model.named_modules()
            if isinstance(part, LoraLinear)
        },
    )


@torch.no_grad()
def _merged(updated: nn.Module) -> nn.Linear:
    assert isinstance(updated, LoraLinear)
    base = updated.base
    assert isinstance(base, nn.Linear)
    base.weight += updated.delta()
    return base
