"""A trigger's success while parts of the model are taken away."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from badexpert.audits.experts.rerun import Ablation, Reruns
from badexpert.models.language import TextSuspect
from badexpert.models.text_networks import padded
from badexpert.runtime import RunContext
from moe_core.view import ExpertId, ExpertView

Experts = tuple[ExpertId, ...]


class Lost(NamedTuple):
    """What is lost under an ablation.

    Attributes:
        triggered: of the probability of the target on triggered texts.
        natural: the same on clean texts of the target, which a part may serve by right; of a model
            that writes, of the probability of its own responses.
    """

    triggered: float
    natural: float

    @property
    def net(self) -> float:
        """What the trigger alone loses."""
        return self.triggered - max(self.natural, 0.0)


class Knockout:
    """Triggered texts, and clean ones of the same class, asked under ablations.

    Attributes:
        triggered: texts of other classes with the trigger, rows of tokens.
        target: class.
        success: mean probability of the target on the triggered texts, with all parts.
    """

    def __init__(
        self,
        suspect: TextSuspect,
        view: ExpertView,
        triggered: Tensor,
        natural: Tensor,
        target: int,
        success: float,
    ) -> None:
        """Take triggered texts, and texts of the target class, maybe none."""
        self.suspect = suspect
        self.view = view
        self.triggered = triggered
        self.target = target
        self.success = success
        self._reruns = Reruns(suspect, view.names)
        self._rows = padded([*triggered, *natural])

    def lost(self, ablations: Sequence[Ablation], context: RunContext) -> list[Lost]:
        """What is lost under each ablation."""
        found = self._reruns.log_probabilities(self._rows, ablations, context)[:, :, self.target]
        triggered, natural = found.exp().split(
            [len(self.triggered), len(self._rows) - len(self.triggered)], dim=1
        )
        means = [part.mean(1) if part.shape[1] else part.sum(1) for part in (triggered, natural)]
        losses = [(mean[0] - mean[1:]).tolist() for mean in means]
        return [Lost(*pair) for pair in zip(*losses, strict=True)]

    def without(self, sets: Sequence[Experts], context: RunContext) -> dict[Experts, float]:
        """What the trigger loses without each set of experts under either ablation, at least."""
        ablations = [
            Ablation(
                tuple(self.view.names[layer] for layer, _ in chosen), partial(ablation, chosen)
            )
            for chosen in sets
            for ablation in (self.view.zeroed, self.view.without)
        ]
        nets = [lost.net for lost in self.lost(ablations, context)]
        pairs = zip(nets[::2], nets[1::2], strict=True)
        return {chosen: min(pair) for chosen, pair in zip(sets, pairs, strict=True)}
