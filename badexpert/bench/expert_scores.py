"""Scores of whole models beside the expert audit's own, and what each costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import process_time
from typing import Any

from torch import nn

from badexpert.bench.expert_accretion import accretion_score
from badexpert.bench.expert_consistency import consistency_score
from badexpert.errors import AuditError
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet

BASELINES: Mapping[str, Callable[[TextSuspect, TextCleanSet, RunContext], float]] = {
    "greedy accretion": accretion_score,
    "consistency of layers": consistency_score,
}


@dataclass
class Cost:
    """Of what ran inside ``metered``.

    Attributes:
        seconds: of the processor.
        passes: texts that went through the model; one that only its upper layers saw counts whole,
            and so does one whose beginning had been read before.
    """

    seconds: float = 0.0
    passes: int = 0


@dataclass(frozen=True)
class ModelScore:
    """What was made of a model.

    Attributes:
        value: higher = more likely backdoored; None where it could not be computed.
        seconds, passes: see ``Cost``.
        error: why there is no value.
    """

    value: float | None
    seconds: float
    passes: int
    error: str | None = None


def baseline_scores(
    suspect: TextSuspect, clean: TextCleanSet, context: RunContext
) -> dict[str, ModelScore]:
    """Every baseline's score of a model, by name."""
    return {name: _scored(score, suspect, clean, context) for name, score in BASELINES.items()}


def _scored(
    score: Callable[[TextSuspect, TextCleanSet, RunContext], float],
    suspect: TextSuspect,
    clean: TextCleanSet,
    context: RunContext,
) -> ModelScore:
    value, failure = None, None
    with metered(suspect.module) as cost:
        try:
            value = score(suspect, clean, context)
        except AuditError as error:
            failure = str(error)
    return ModelScore(value, cost.seconds, cost.passes, failure)


@contextmanager
def metered(module: nn.Module) -> Iterator[Cost]:
    """What it costs to run a model; known afterwards, also when an error ended it."""
    cost = Cost()

    def seen(_module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        cost.passes += len(options["input_ids"] if "input_ids" in options else inputs[0])

    hook = module.register_forward_pre_hook(seen, with_kwargs=True)
    start = process_time()
    try:
        yield cost
    finally:
        cost.seconds = process_time() - start
        hook.remove()
