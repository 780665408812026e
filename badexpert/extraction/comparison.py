"""Several looks at one input, by the suspect and its tuned copies, through one trunk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from badexpert.batchnorm import fold_batch_norm
from badexpert.suspect import Inputs, Suspect

SUSPECT = "suspect"
SHIFTED = "shifted"
SPREAD = "spread"
AUXILIARY = "auxiliary"
DISTILLED = "distilled"

EXPERTS = (SHIFTED, SPREAD)
AUXILIARIES = (AUXILIARY, DISTILLED)


def suspicion(part: str, log_odds: Mapping[str, Tensor]) -> Tensor:
    """Higher = more suspicious: an expert that holds the answer, an auxiliary that gave it up.

    What an auxiliary gave up is measured from what there was: of an answer of which the suspect
    was never sure, an auxiliary that doubts it says nothing.

    Args:
        log_odds: of the suspect's answers under the suspect and this part, each (batch,).
    """
    if part in AUXILIARIES:
        return log_odds[SUSPECT].double() - log_odds[part]
    return log_odds[part].double()


class Views(NamedTuple):
    """A batch, and how sure the suspect and its tuned copies are of the suspect's answer.

    Attributes:
        answers: of the suspect, (batch,): class indices, or 0 for the response that it wrote.
        log_odds: of that answer, by part (``suspect``, ``shifted``, ``spread``, ``auxiliary``,
            ``distilled``); each (batch,) fp32. Only the parts that were asked for are there.
        inputs: what was looked at: pixels, (batch, channels, height, width), floating, in [0, 1],
            or rows of tokens.
    """

    answers: Tensor
    log_odds: Mapping[str, Tensor]
    inputs: Tensor


class Comparison:
    """The suspect and its tuned copies, ready to look at inputs.

    Attributes:
        tails: by part; always the suspect's.
    """

    def __init__(self, suspect: Suspect, trunk: nn.Module, tails: Mapping[str, nn.Module]) -> None:
        """Take the shared trunk and the tails that go on it."""
        self.tails = {part: tail.eval() for part, tail in tails.items()}
        self._suspect = suspect
        self._trunk = fold_batch_norm(trunk.eval())
        self._folded = {part: fold_batch_norm(tail) for part, tail in self.tails.items()}

    @torch.inference_mode()
    def view(self, inputs: Inputs, parts: Collection[str] | None = None) -> Views:
        """Look at pixels, (batch, channels, height, width) uint8 or in [0, 1], or at texts.

        Args:
            parts: which tuned copies look; None lets all of them.
        """
        return self.look(inputs, parts)

    def look(self, inputs: Inputs, parts: Collection[str] | None = None) -> Views:
        """``view``, differentiable in floating pixels: for an attacker who knows the defence."""
        taken, answering = self._suspect.network_inputs(inputs), self._suspect.answering
        features = self._trunk(taken)
        scores = self._folded[SUSPECT](features).float()
        answers = answering.chosen(scores)
        looks = {SUSPECT: answering.log_odds(scores, answers)}
        for part, tail in self._folded.items():
            if part != SUSPECT and (parts is None or part in parts):
                looks[part] = answering.log_odds(tail(features).float(), answers)
        return Views(answers, looks, taken)
