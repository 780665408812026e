"""Three looks at one input: the suspect, the backdoor expert, the auxiliary; one trunk."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from badexpert.models.vision import VisionSuspect, log_odds


class Views(NamedTuple):
    """How sure each of the three is of the suspect's answer.

    Attributes:
        answers: of the suspect, (batch,) class indices.
        suspect: log-odds of its own answer, (batch,) fp32.
        expert: the backdoor expert's log-odds of it, (batch,) fp32.
        auxiliary: the auxiliary's log-odds of it, (batch,) fp32.
    """

    answers: Tensor
    suspect: Tensor
    expert: Tensor
    auxiliary: Tensor


class Comparison:
    """The suspect and the two tuned copies, ready to look at inputs."""

    def __init__(
        self,
        suspect: VisionSuspect,
        trunk: nn.Module,
        tails: tuple[nn.Module, nn.Module, nn.Module],
    ) -> None:
        """Take the trunk, and the tails of the suspect, the expert and the auxiliary."""
        self._suspect = suspect
        self._trunk = trunk.eval()
        self._tails = tuple(tail.eval() for tail in tails)

    @torch.inference_mode()
    def view(self, inputs: Tensor) -> Views:
        """Look at pixels, (batch, channels, height, width) uint8 or in [0, 1]."""
        features = self._trunk(self._suspect.pixels(inputs))
        logits = [tail(features).float() for tail in self._tails]
        answers = logits[0].argmax(1)
        return Views(answers, *(log_odds(scores, answers) for scores in logits))
