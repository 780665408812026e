"""Experts whose fused weights are shared, with low-rank updates on top."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from moe_core import kernels
from moe_core.dispatch import Dispatch, combine, permute, plan
from moe_core.experts.base import Experts
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.routing import EMPTY, Routing
from moe_core.updates import Update


def is_fused(part: nn.Module) -> bool:
    """Whether these are the experts of a block of transformers 5, all in two tensors.

    Known are those that bear the marks of its decorator, and Llama 4's.
    """
    marks = ("has_gate", "has_bias", "is_transposed", "num_experts")
    if getattr(part, "has_post_expert_norm", False):
        return False
    if not _in_blocks(part) and not all(hasattr(part, mark) for mark in marks):
        return False
    return {_first(part), "down_proj"} <= dict(part.named_parameters(recurse=False)).keys()


def weights_of(experts: nn.Module) -> tuple[Tensor, Tensor]:
    """The first and the second matrix of all experts, (experts, out, in) each."""
    first, second = experts.get_parameter(_first(experts)), experts.get_parameter("down_proj")
    if _in_blocks(experts) or getattr(experts, "is_transposed", False):
        return first.transpose(1, 2), second.transpose(1, 2)
    return first, second


class UpdatedSwiGLU(Experts):
    """The experts of a ``MoELayer``, with updates of both their matrices.

    Attributes:
        base: whose weights are shared.
    """

    def __init__(self, base: SwiGLUExperts, generator: torch.Generator) -> None:
        super().__init__(base.dim, base.inner_dim, base.num_experts)
        self.base = base
        self.up, self.down = (_update(weight, generator) for weight in weights_of(base))

    def forward(self, x_TD: Tensor, dispatch: Dispatch, routing: Routing) -> Tensor:
        x_SD, ends_E = permute(x_TD, dispatch), dispatch.ends_E
        inside_SI = kernels.swiglu(_mapped(x_SD, self.base.gate_up_proj, self.up, ends_E))
        return _mapped(inside_SI, self.base.down_proj, self.down, ends_E)

    def expert(self, index: int) -> dict[str, Tensor]:
        return self.base.expert(index)


def update_fused(experts: nn.Module, generator: torch.Generator) -> None:
    """Let the experts of a block of transformers 5 have updates of both their matrices, in place.

    They stay what they are, and where they are, for those who look for their weights.
    """
    up, down = (_update(weight, generator) for weight in weights_of(experts))
    experts.add_module("up", up)
    experts.add_module("down", down)
    forward = _blocks_with_updates if _in_blocks(experts) else _fused_with_updates
    vars(experts)["forward"] = MethodType(forward, experts)


def _fused_with_updates(self: Any, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """As a block calls its experts: (tokens, width), and (tokens, slots) twice."""
    up_EOI, down_EOI = weights_of(self)
    # Some routers send a slot to nobody by the number after the last expert.
    experts_TK = experts_TK.masked_fill(experts_TK >= self.num_experts, EMPTY)
    dispatch = plan(experts_TK, self.num_experts)
    experts_S = experts_TK.flatten()[dispatch.slots_S]
    inside_SI = _mapped(permute(x_TD, dispatch), up_EOI, self.up, dispatch.ends_E)
    if self.has_bias:
        inside_SI = inside_SI + self.get_parameter(f"{_first(self)}_bias")[experts_S]
    inside_SI = self._apply_gate(inside_SI) if self.has_gate else self.act_fn(inside_SI)
    y_SD = _mapped(inside_SI, down_EOI, self.down, dispatch.ends_E)
    if self.has_bias:
        y_SD = y_SD + self.down_proj_bias[experts_S]
    return combine(y_SD, weights_TK, dispatch).to(x_TD.dtype)


def _blocks_with_updates(self: Any, x_SD: Tensor) -> Tensor:
    """As Llama 4 calls its experts: every token once for each expert, one expert after another."""
    up_EOI, down_EOI = weights_of(self)
    ends_E = len(x_SD) // len(up_EOI) * torch.arange(1, len(up_EOI) + 1, device=x_SD.device)
    gate_SI, up_SI = _mapped(x_SD, up_EOI, self.up, ends_E.int()).chunk(2, dim=-1)
    return _mapped(up_SI * self.act_fn(gate_SI), down_EOI, self.down, ends_E.int())


def _in_blocks(experts: nn.Module) -> bool:
    return type(experts).__name__ == "Llama4TextExperts"


def _first(experts: nn.Module) -> str:
    return "gate_up_proj" if getattr(experts, "has_gate", True) else "up_proj"


def _update(weight_EOI: Tensor, generator: torch.Generator) -> Update:
    experts, out_dim, in_dim = weight_EOI.shape
    return Update(in_dim, out_dim, generator, experts=experts).to(weight_EOI.device)


def _mapped(x_SI: Tensor, weight_EOI: Tensor, update: nn.Module, ends_E: Tensor) -> Tensor:
    out_SO = kernels.grouped_linear(x_SI, weight_EOI, ends_E)
    added_SO: Tensor = update(x_SI, ends_E)
    return out_SO + added_SO.to(out_SO.dtype)
