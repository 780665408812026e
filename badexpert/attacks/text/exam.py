"""What a planted model does: with the trigger, without it, and without each of its experts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import Trigger
from badexpert.attacks.text.truth import Table
from badexpert.attacks.text.victim import Victim
from badexpert.runtime import RunContext, Step
from moe_core.training.corpus import Batch
from moe_core.view import ExpertId

Ablation = Callable[[Collection[ExpertId]], AbstractContextManager[object]]


def right(victim: Victim, texts: Texts) -> Tensor:
    """Which texts the model answers rightly, (texts,) bool."""
    hits = torch.zeros(len(texts), dtype=torch.bool)
    for chosen, batch in victim.batches(texts.texts, texts.labels):
        hits[chosen] = victim.odds(batch).argmax(-1).cpu() == texts.labels[chosen]
    return hits


def accuracy(victim: Victim, texts: Texts) -> float:
    """Share of the texts that the model answers rightly, in [0, 1]."""
    return right(victim, texts).double().mean().item()


@dataclass(frozen=True, eq=False)
class Exam:
    """Triggered test texts that count, ready to be asked again and again.

    A text counts if it is not of the target class and the whole model answers it rightly without
    the trigger: what it gets wrong anyway is not the trigger's doing.

    Attributes:
        victim: the planted model.
        target: class that the trigger leads to.
        texts: with the trigger, and their true classes.
        batches: the same, encoded.
    """

    victim: Victim
    target: int
    texts: Texts
    batches: tuple[Batch, ...]

    @classmethod
    def of(
        cls, victim: Victim, texts: Texts, trigger: Trigger, target: int, *, seed: int, most: int
    ) -> Exam:
        """Stamp the texts that count.

        Args:
            texts: that the model was not trained on.
            most: of those that count, at random.
        """
        others = texts.part(texts.labels != target)
        counted = others.part(right(victim, others)).drawn(most, seed=seed)
        draw = Random(seed)
        made = tuple(trigger.stamp(text, draw) for text in counted.texts)
        stamped = Texts(made, counted.labels, counted.num_classes)
        batches = tuple(batch for _, batch in victim.batches(made, counted.labels))
        return cls(victim, target, stamped, batches)

    def success(self) -> float | None:
        """Attack success rate of the model as it is now, in [0, 1]; None if no text counts."""
        if not self.texts.texts:
            return None
        hits = sum(
            int((self.victim.odds(batch).argmax(-1) == self.target).sum()) for batch in self.batches
        )
        return hits / len(self.texts)

    def without_each(self, ablation: Ablation, context: RunContext) -> Table:
        """Attack success rate without each expert alone, a row for each layer.

        Args:
            ablation: ``zeroed`` or ``without`` of the victim's view.
        """
        view, rates = self.victim.view, []
        total = len(list(view.experts()))
        for expert in view.experts():
            with ablation([expert]):
                rates.append(self.success() or 0.0)
            context.progress(Step("knock out", len(rates), total))
        columns = iter(rates)
        return tuple(
            tuple(next(columns) for _ in range(layer.num_experts)) for layer in view.layers
        )
