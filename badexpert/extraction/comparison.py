"""Several looks at one input, by the suspect and its tuned copies, through one trunk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from badexpert.batchnorm import fold_batch_norm
from badexpert.extraction.gaussian import Gaussian, with_rows
from badexpert.suspect import Inputs, Suspect

SUSPECT = "suspect"
SHIFTED = "shifted"
SPREAD = "spread"
AUXILIARY = "auxiliary"
DISTILLED = "distilled"

EXPERTS = (SHIFTED, SPREAD)
AUXILIARIES = (AUXILIARY, DISTILLED)

DISTANCE = "distance"
"""No copy, but the suspect itself, beside what it makes of clean samples."""


class Views(NamedTuple):
    """A batch, and how sure the suspect and its tuned copies are of the suspect's answer.

    Attributes:
        answers: of the suspect, (batch,): class indices, or 0 for the response that it wrote.
        log_odds: of that answer, by part (``suspect``, ``shifted``, ``spread``, ``auxiliary``,
            ``distilled``); each (batch,) fp32. Only the parts that were asked for are there.
        inputs: what was looked at: pixels, (batch, channels, height, width), floating, in [0, 1],
            or rows of tokens.
        distances: from clean samples, (batch,) fp64, see ``Gaussian.distance``; None where they
            were not asked for, or there is nothing to compare with.
    """

    answers: Tensor
    log_odds: Mapping[str, Tensor]
    inputs: Tensor
    distances: Tensor | None = None

    def suspicions(self) -> dict[str, Tensor]:
        """By part, higher = more suspicious, (batch,) fp64: an expert that holds the answer, an
        auxiliary that gave it up, a long way from clean samples.

        What an auxiliary gave up is measured from what there was: of an answer of which the
        suspect was never sure, an auxiliary that doubts it says nothing.
        """
        sure = self.log_odds[SUSPECT].double()
        found = {
            part: sure - odds if part in AUXILIARIES else odds.double()
            for part, odds in self.log_odds.items()
            if part != SUSPECT
        }
        return found if self.distances is None else {**found, DISTANCE: self.distances}


class Comparison:
    """The suspect and its tuned copies, ready to look at inputs.

    Attributes:
        tails: by part; always the suspect's.
        gaussian: clean samples to compare with, if there are any.
    """

    def __init__(
        self,
        suspect: Suspect,
        trunk: nn.Module,
        tails: Mapping[str, nn.Module],
        *,
        entry: str = "",
        gaussian: Gaussian | None = None,
    ) -> None:
        """Take the shared trunk and the tails that go on it.

        Args:
            entry: the place of the cut.
        Raises:
            AuditError: the clean samples were looked at in a place that the tail has not.
        """
        self.tails = {part: tail.eval() for part, tail in tails.items()}
        self.gaussian = gaussian
        self._suspect = suspect
        self._trunk = fold_batch_norm(trunk.eval())
        own = self.tails[SUSPECT]
        if gaussian is not None:
            own = with_rows(own, entry, gaussian.places)
        self._folded = {
            part: fold_batch_norm(own if part == SUSPECT else tail)
            for part, tail in self.tails.items()
        }

    @torch.inference_mode()
    def view(self, inputs: Inputs, parts: Collection[str] | None = None) -> Views:
        """Look at pixels, (batch, channels, height, width) uint8 or in [0, 1], or at texts.

        Args:
            parts: which tuned copies look, and whether clean samples are compared with; None lets
                all of them.
        """
        return self.look(inputs, parts)

    def look(self, inputs: Inputs, parts: Collection[str] | None = None) -> Views:
        """``view``, differentiable in floating pixels: for an attacker who knows the defence."""
        taken, answering = self._suspect.network_inputs(inputs), self._suspect.answering
        features = self._trunk(taken)
        answered = self._folded[SUSPECT](features)
        scores, rows = (answered, None) if self.gaussian is None else answered
        scores = scores.float()
        answers = answering.chosen(scores)
        looks = {SUSPECT: answering.log_odds(scores, answers)}
        for part, tail in self._folded.items():
            if part != SUSPECT and (parts is None or part in parts):
                looks[part] = answering.log_odds(tail(features).float(), answers)
        distances = None
        if self.gaussian is not None and (parts is None or DISTANCE in parts):
            assert rows is not None
            distances = self.gaussian.distance(rows, answers)
        return Views(answers, looks, taken, distances)
