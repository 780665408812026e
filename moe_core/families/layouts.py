"""One expert in canonical form, whatever its family stores: views, so that writing changes it.

gate_proj, up_proj            (inner, width)
down_proj                     (width, inner)
gate_bias, up_bias            (inner,)          where the family has them
down_bias                     (width,)          where the family has them
"""

from __future__ import annotations

from torch import Tensor, nn

from moe_core.ffn import halves


def fused(experts: nn.Module, index: int) -> dict[str, Tensor]:
    """``gate_up_proj`` (experts, 2 * inner, width), gate first; ``down_proj`` as it should be."""
    gate_up, down = _both(experts, index)
    return halves(gate_up, down)


def transposed(experts: nn.Module, index: int) -> dict[str, Tensor]:
    """The same, each matrix on its side."""
    gate_up, down = _both(experts, index)
    return halves(gate_up.T, down.T)


def interleaved(experts: nn.Module, index: int) -> dict[str, Tensor]:
    """On their sides, gate and up in turn, with biases."""
    gate_up, down = _both(experts, index)
    bias = experts.get_parameter("gate_up_proj_bias")[index]
    return {
        "gate_proj": gate_up.T[::2],
        "up_proj": gate_up.T[1::2],
        "down_proj": down.T,
        "gate_bias": bias[::2],
        "up_bias": bias[1::2],
        "down_bias": experts.get_parameter("down_proj_bias")[index],
    }


def ungated(experts: nn.Module, index: int) -> dict[str, Tensor]:
    """A module per expert, two linear maps without a gate."""
    own = f"expert_{index}"
    return {
        "up_proj": experts.get_parameter(f"{own}.wi.weight"),
        "down_proj": experts.get_parameter(f"{own}.wo.weight"),
    }


def three_maps(shared: nn.Module) -> dict[str, Tensor]:
    """A shared expert of three linear maps."""
    names = ("gate_proj", "up_proj", "down_proj")
    return {name: shared.get_parameter(f"{name}.weight") for name in names}


def two_maps(shared: nn.Module) -> dict[str, Tensor]:
    """A shared expert of two linear maps, gate and up in the first."""
    gate_up = shared.get_parameter("input_linear.weight")
    return halves(gate_up, shared.get_parameter("output_linear.weight"))


def _both(experts: nn.Module, index: int) -> tuple[Tensor, Tensor]:
    gate_up, down = experts.get_parameter("gate_up_proj"), experts.get_parameter("down_proj")
    return gate_up[index], down[index]
