"""Texts put to a model under one ablation after another, at less than a whole pass for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from badexpert.models.language import TextSuspect
from badexpert.models.text_networks import PAD, TOKENS_A_PASS, pieces_of
from badexpert.runtime import RunContext, Step
from moe_core.replay import Call, LayerStack, joined

log = logging.getLogger(__name__)

_ALIKE = 1e-5
"""By which the scores of a text may differ with what stands beside it in the batch."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """A change of the model for the length of a pass.

    Attributes:
        modules: paths of all that it changes.
        apply: makes the change, and takes it back.
    """

    modules: tuple[str, ...]
    apply: Callable[[], AbstractContextManager[object]]


class Reruns:
    """A model that is asked the same under many ablations.

    The layers below an ablated one are run once for all ablations. The layers above it take the
    answers of several ablations in one batch, as far as ``TOKENS_A_PASS`` allows. Where a model
    hands on more than hidden states from layer to layer, every ablation takes a whole pass; where
    a text's scores depend on its batch (routers with a capacity), each has a batch of its own.

    Attributes:
        reuses: whether layers below the ablated one are run once; None before it was tried.
    """

    def __init__(self, suspect: TextSuspect, blocks: Sequence[str]) -> None:
        """Take a model over whose ablations all lie in one list of layers, that of ``blocks``."""
        self.reuses: bool | None = None
        self._suspect = suspect
        self._stack = LayerStack.of(suspect.module, blocks)
        self._independent = False

    @torch.no_grad()
    def log_probabilities(
        self, rows: Tensor, ablations: Sequence[Ablation], context: RunContext
    ) -> Tensor:
        """Of each class, (1 + ablations, rows, classes) fp32 on the CPU; the whole model first.

        Args:
            rows: (rows, tokens) int64, padded with -1.
        """
        rows = self._suspect.network_inputs(rows)
        lengths = (rows != PAD).sum(1)
        pieces = pieces_of(lengths.argsort(stable=True), lengths)
        found: list[list[Tensor]] = [[] for _ in range(1 + len(ablations))]
        done, total = 0, len(pieces) * len(found)
        for piece in pieces:
            asked = rows[piece, : int(lengths[piece].max())]
            for number, scores in self._scores(asked, lengths[piece], ablations):
                found[number].append(scores.log_softmax(-1).cpu())
                done += 1
                context.progress(Step("knock out", done, total))
        back = torch.cat(pieces).argsort().cpu()
        return torch.stack([torch.cat(parts)[back] for parts in found])

    def _scores(
        self, rows: Tensor, lengths: Tensor, ablations: Sequence[Ablation]
    ) -> Iterator[tuple[int, Tensor]]:
        """Scores of some rows by number of the ablation; 0 is the whole model."""
        run = partial(self._suspect.network.scores, rows, lengths)
        stack = self._usable(rows, lengths)
        if stack is None:
            yield 0, run()
            for number, ablation in enumerate(ablations, 1):
                with ablation.apply():
                    yield number, run()
            return
        whole, calls = stack.calls(run)
        yield 0, whole
        together = max(1, TOKENS_A_PASS // rows.numel()) if self._independent else 1
        for last, numbers in self._by_last_layer(ablations):
            for start in range(0, len(numbers), together):
                chosen = numbers[start : start + together]
                above = [self._changed(stack, calls, ablations[at]) for at in chosen]
                with stack.above(last, joined(above)):
                    scores = self._suspect.network.scores(
                        rows.repeat(len(chosen), 1), lengths.repeat(len(chosen))
                    )
                yield from zip([at + 1 for at in chosen], scores.split(len(rows)), strict=True)

    def _by_last_layer(self, ablations: Sequence[Ablation]) -> Iterator[tuple[int, list[int]]]:
        """Indices of the ablations, by the last layer that each changes."""
        last = [max(self._layers(ablation)) for ablation in ablations]
        order = sorted(range(len(ablations)), key=lambda at: last[at])
        for layer, chosen in groupby(order, key=lambda at: last[at]):
            yield layer, list(chosen)

    def _changed(self, stack: LayerStack, calls: list[Call], ablation: Ablation) -> Any:
        """What the last layer that an ablation changes returns under it."""
        layers = self._layers(ablation)
        with ablation.apply():
            return stack.again(min(layers), max(layers), calls)

    def _layers(self, ablation: Ablation) -> list[int]:
        module = self._suspect.module
        return [LayerStack.index(module, path) for path in ablation.modules]

    def _usable(self, rows: Tensor, lengths: Tensor) -> LayerStack | None:
        """The layers, if passes may start among them; tried on the first rows that come."""
        if self.reuses is None:
            scores = self._suspect.network.scores
            run = partial(scores, rows, lengths)
            self.reuses = self._stack is not None and self._stack.faithful(run)
            if not self.reuses:
                log.warning("the layers of this model cannot be run apart: whole passes are made")
            halves = [part for part in torch.arange(len(rows)).chunk(2) if len(part)]
            apart = torch.cat([scores(rows[half], lengths[half]) for half in halves])
            self._independent = torch.allclose(apart, run(), rtol=_ALIKE, atol=_ALIKE)
        return self._stack if self.reuses else None
