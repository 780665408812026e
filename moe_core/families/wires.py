"""How a router tells experts what to do: three conventions of transformers.

A wire reads a router's output as weights and experts by slot, writes a changed routing back in the
same form, and asks experts for the answer of single rows. Experts are asked through their own
``forward``, so that every backend, activation and bias is the model's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core.dispatch import Dispatch, permute
from moe_core.routing import DROPPED, Routing

Output = tuple[Tensor, ...]
"""What a router returns."""

_Slots = tuple[Tensor, Tensor]
"""Gate weights and expert indices, both (tokens, slots)."""


class Wire(ABC):
    """One convention between routers and experts."""

    def top_k(self, router: nn.Module) -> int:
        """Slots per token."""
        return cast(int, router.top_k)

    @abstractmethod
    def read(self, output: Output, top_k: int) -> _Slots:
        """Weights and experts of every slot; a slot that runs nothing has weight 0."""

    @abstractmethod
    def write(self, output: Output, routing: Routing) -> Output:
        """The same output with another routing, in the same shapes and dtypes."""

    @abstractmethod
    def answers(
        self, experts: nn.Module, x_TD: Tensor, routing: Routing, dispatch: Dispatch
    ) -> Tensor:
        """What the expert of each row says, (rows, width), before the gate weight."""


class TopK(Wire):
    """``(logits, weights, index)``; Granite before transformers 5.23 has it back to front."""

    def read(self, output: Output, top_k: int) -> _Slots:
        return output[1], output[self._index(output)].long()

    def write(self, output: Output, routing: Routing) -> Output:
        changed, at = list(output), self._index(output)
        # An empty slot runs expert 0 for nothing: not every backend has a mark for "none".
        changed[at] = routing.experts_TK.clamp(min=0).to(output[at].dtype)
        changed[1] = _running_weights(routing).to(output[1].dtype)
        return tuple(changed)

    def answers(
        self, experts: nn.Module, x_TD: Tensor, routing: Routing, dispatch: Dispatch
    ) -> Tensor:
        rows_SD = permute(x_TD, dispatch)
        index_S1 = _experts_S(routing, dispatch).unsqueeze(1)
        return _ask(experts, rows_SD, index_S1, torch.ones_like(index_S1, dtype=rows_SD.dtype))

    @staticmethod
    def _index(output: Output) -> int:
        return 2 if output[0].is_floating_point() else 0


class OneHot(Wire):
    """Switch: one expert per token, as a one-hot mask in which a full expert is missing.

    transformers 5.17 returns (probability, mask, probability) of flattened tokens and knows no
    capacity; 5.23 returns (mask, probability, logits) by sequence.
    """

    def top_k(self, router: nn.Module) -> int:
        return 1

    def read(self, output: Output, top_k: int) -> _Slots:
        mask_TE = self._mask(output).flatten(0, -2)
        experts_T1 = mask_TE.argmax(-1, keepdim=True)
        experts_T1 = experts_T1.masked_fill(mask_TE.sum(-1, keepdim=True) == 0, DROPPED)
        weights_T1 = next(part for part in output if self._weighs(part)).reshape(-1, 1)
        return weights_T1.masked_fill(experts_T1 < 0, 0), experts_T1

    def write(self, output: Output, routing: Routing) -> Output:
        mask = self._mask(output)
        chosen_TE = F.one_hot(routing.experts_TK.clamp(min=0).squeeze(1), mask.shape[-1])
        chosen_TE = chosen_TE * (routing.experts_TK >= 0)
        weights_T1 = _running_weights(routing)
        return tuple(
            chosen_TE.view_as(part)
            if part is mask
            else weights_T1.to(part.dtype).view_as(part)
            if self._weighs(part)
            else part
            for part in output
        )

    def answers(
        self, experts: nn.Module, x_TD: Tensor, routing: Routing, dispatch: Dispatch
    ) -> Tensor:
        rows_SD = permute(x_TD, dispatch)
        mask_SE = F.one_hot(_experts_S(routing, dispatch), routing.probs_TE.shape[1])
        return _ask(experts, rows_SD, mask_SE.unsqueeze(1), rows_SD.new_ones(len(rows_SD), 1))

    @staticmethod
    def _mask(output: Output) -> Tensor:
        return next(part for part in output if not part.is_floating_point())

    @staticmethod
    def _weighs(part: Tensor) -> bool:
        return part.is_floating_point() and part.shape[-1] == 1


class Scores(Wire):
    """Llama 4: ``(scores, logits)``, a score of 0 for whoever was not chosen.

    Every expert runs every token, multiplied by its score *before* the expert. A row's answer is
    what the expert said of the scaled token divided by the score, so that weight times answer is
    its contribution, as in all other families.
    """

    def read(self, output: Output, top_k: int) -> _Slots:
        weights_TK, experts_TK = output[0].topk(top_k, dim=-1)
        return weights_TK, experts_TK

    def write(self, output: Output, routing: Routing) -> Output:
        scores_TE, logits_TE = output
        index_TK, runs_TK = routing.experts_TK.clamp(min=0), routing.experts_TK >= 0
        if (torch.zeros_like(scores_TE).scatter_add(1, index_TK, runs_TK.to(scores_TE)) > 1).any():
            raise ValueError("a token of Llama 4 cannot go to one expert in two slots")
        weights_TK = _running_weights(routing).to(scores_TE.dtype)
        return torch.zeros_like(scores_TE).scatter_add(1, index_TK, weights_TK), logits_TE

    def answers(
        self, experts: nn.Module, x_TD: Tensor, routing: Routing, dispatch: Dispatch
    ) -> Tensor:
        # The experts take equally many rows each: pad to the longest.
        starts_E = dispatch.ends_E.long().diff(prepend=dispatch.ends_E.new_zeros(1).long())
        experts_S = _experts_S(routing, dispatch)
        within_S = torch.arange(len(experts_S), device=x_TD.device)
        within_S = within_S - (dispatch.ends_E.long() - starts_E)[experts_S]
        score_S1 = routing.weights_TK.reshape(-1, 1)[dispatch.slots_S].to(x_TD.dtype)
        padded = x_TD.new_zeros(len(starts_E), int(starts_E.max()), x_TD.shape[1])
        padded = padded.index_put((experts_S, within_S), permute(x_TD, dispatch) * score_S1)
        said = _ask(experts, padded.flatten(0, 1)).view_as(padded)[experts_S, within_S]
        return said / torch.where(score_S1 == 0, 1, score_S1)


def _experts_S(routing: Routing, dispatch: Dispatch) -> Tensor:
    return routing.experts_TK.reshape(-1)[dispatch.slots_S]


def _running_weights(routing: Routing) -> Tensor:
    return routing.weights_TK.masked_fill(routing.experts_TK < 0, 0)


def _ask(experts: nn.Module, *inputs: Tensor) -> Tensor:
    # Not experts(...): hooks are for what the model itself runs.
    forward: Callable[..., Tensor] = experts.forward
    return forward(*inputs) if len(inputs[0]) else torch.zeros_like(inputs[0])
