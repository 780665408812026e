"""Which experts a trigger needs: its success with and without each, by both kinds of ablation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from badexpert.audits.experts.knockout import Experts, Knockout
from badexpert.audits.experts.routing import routing_statistics
from badexpert.runtime import RunContext
from moe_core.view import ExpertId, ExpertView

LOCAL_SHARE = 0.5
"""Of its success, that a trigger loses without the experts it lives in."""

LOCAL_LEAD = 3.0
"""How many times that must exceed the loss without any other experts.

Both set by hand. On the tiny models of the tests, a trigger locked into an expert lost 0.96 of its
success or more without it, and nothing without any other; one in no single expert lost 0.08 at
most."""

MOST_TOGETHER = 3
"""Experts that are removed at once, in search of redundant ones."""

_LIKELY = 8
"""Experts from which sets are made: those that the trigger calls upon most."""


@dataclass(frozen=True)
class Attribution:
    """What a trigger loses without experts.

    Attributes:
        table: by layer and expert: the probability of the target that triggered texts lose
            without this expert, less what clean texts of the target lose without it; the smaller
            of that by zeroing and that by routing around.
        experts: that are blamed most: one, or a set if no single one will do.
        loss: the same number without all of these.
        runner_up: the largest loss without other experts, of all sets that were tried.
        success: of the trigger in the whole model.
    """

    table: tuple[tuple[float, ...], ...]
    experts: Experts
    loss: float
    runner_up: float
    success: float

    @property
    def local(self) -> bool:
        """Whether the backdoor lives in these experts."""
        return self.loss >= LOCAL_SHARE * self.success and self.loss >= LOCAL_LEAD * max(
            self.runner_up, 0.0
        )


def attribute(knockout: Knockout, plain: Tensor, context: RunContext) -> Attribution:
    """Remove each expert, and sets of likely ones where no single one is to blame.

    Args:
        plain: the triggered texts without their trigger.
    """
    view = knockout.view
    singles = knockout.without(
        [(expert,) for expert in view.experts() if _bearable(view, (expert,))], context
    )
    tried, best = dict(singles), _largest(singles)
    likely = called_upon(knockout, plain)[:_LIKELY]
    for count in range(2, MOST_TOGETHER + 1):
        if tried[best] >= LOCAL_SHARE * knockout.success:
            break
        sets = [chosen for chosen in _sets(likely, best, count) if _bearable(view, chosen)]
        tried |= knockout.without(sets, context)
        best = _largest(tried)
    return Attribution(
        table=tuple(
            tuple(singles.get((ExpertId(at, expert),), 0.0) for expert in range(layer.num_experts))
            for at, layer in enumerate(view.layers)
        ),
        experts=best,
        loss=tried[best],
        runner_up=max(
            (lost for chosen, lost in tried.items() if not {*chosen} & {*best}), default=0.0
        ),
        success=knockout.success,
    )


def called_upon(knockout: Knockout, plain: Tensor) -> list[ExpertId]:
    """Experts by how much more they add to texts once the trigger is in them, most first."""
    with_it = routing_statistics(knockout.suspect, knockout.view, knockout.triggered)
    without = routing_statistics(knockout.suspect, knockout.view, plain)
    rise = {
        expert: (with_it[at].contribution[index] - without[at].contribution[index]).item()
        for expert in knockout.view.experts()
        for at, index in [expert]
    }
    return sorted(rise, key=lambda expert: -rise[expert])


def _sets(likely: list[ExpertId], best: Experts, count: int) -> Iterable[Experts]:
    """All pairs of likely experts, since two redundant ones show only together; then the best set
    with one more."""
    if count == 2:
        return combinations(likely, 2)
    return [(*best, expert) for expert in likely if expert not in best]


def _bearable(view: ExpertView, experts: Experts) -> bool:
    """Whether a layer keeps half of its experts: without more, it does nothing that it did."""
    removed = Counter(layer for layer, _ in experts)
    return all(2 * count <= view.layer(at).num_experts for at, count in removed.items())


def _largest(losses: Mapping[Experts, float]) -> Experts:
    return max(losses, key=lambda experts: losses[experts])
