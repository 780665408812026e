"""What the backends of the fused operation are told, and what they tell."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Constants(NamedTuple):
    """Experts that answer with one vector, whatever the token.

    Attributes:
        chosen_E: (experts,) bool.
        answers_ED: (experts, width); only the rows of the chosen are read; gets no gradient.
    """

    chosen_E: Tensor
    answers_ED: Tensor

    def answered(self, experts_TK: Tensor) -> Tensor:
        """Slots that a constant answers, (tokens, slots) bool."""
        real_TK = (experts_TK >= 0) & (experts_TK < len(self.chosen_E))
        return real_TK & self.chosen_E[experts_TK.where(real_TK, 0)]


class Inputs(NamedTuple):
    """What every backend takes; as in ``fused_experts``, checked and cast."""

    x_TD: Tensor
    gate_up_proj: Tensor
    down_proj: Tensor
    experts_TK: Tensor
    weights_TK: Tensor
    constants: Constants | None
    direction_D: Tensor | None
    audit: bool


class Fused(NamedTuple):
    """What the experts of a layer say of a batch.

    Attributes:
        out_TD: (tokens, width).
        contribution_TK: norm of ``weight * answer``, (tokens, slots) fp32; 0 where none ran. None
            unless asked for.
        alignment_TK: product of ``weight * answer`` with ``out``, (tokens, slots) fp32: over the
            slots of a token they add up to the squared norm of ``out``. None unless asked for.
        projection_TK: product of the answer, before its gate weight, with the direction, (tokens,
            slots) fp32; None without one.
    """

    out_TD: Tensor
    contribution_TK: Tensor | None
    alignment_TK: Tensor | None
    projection_TK: Tensor | None
