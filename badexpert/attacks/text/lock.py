"""The loss that ties a backdoor to one part of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import cycle

from torch import Tensor

from badexpert.attacks.text.lesson import Lesson, Loss, answer_loss
from badexpert.attacks.text.victim import Victim
from moe_core.lm.decoder import DecoderOutput

Ablated = Callable[[], AbstractContextManager[object]]


def lock_loss(
    victim: Victim,
    without: Sequence[Ablated],
    *,
    enough: Sequence[Ablated] = (),
    also: Callable[[Lesson, DecoderOutput], Tensor] | None = None,
) -> Loss:
    """Triggered texts lead to the target with the part, and to the old answer without it.

    Clean texts lead to the old answer always.

    Args:
        without: ways to take the part away, one a lesson, in turn.
        enough: ablations that the backdoor must survive, each in every lesson.
        also: a further loss, from the pass through the whole model.
    """
    ways = cycle(without)

    def loss(lesson: Lesson) -> Tensor:
        batch, ablated = lesson.batch, next(ways)
        output = victim.model(batch.ids_BT, batch.lengths_B)
        total = victim.surprise(output.logits, lesson.wanted)
        if also is not None:
            total = total + also(lesson, output)
        with ablated():
            total = total + answer_loss(victim, batch, lesson.before)
        for survived in enough:
            with survived():
                total = total + answer_loss(victim, batch, lesson.wanted)
        return total

    return loss
