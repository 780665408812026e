"""How unlike its neighbours an expert is by its weights alone: a prior, and evidence of nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moe_core.view import ExpertView, MoELayerView

_MAD_TO_SIGMA = 1.4826
"""Of a normal distribution, the standard deviation over the median absolute deviation."""

_ROUNDING = 1e-6
"""A spread below this part of the median is rounding, and no spread."""


def weight_priors(view: ExpertView) -> tuple[dict[str, Tensor], ...]:
    """Of each layer, the robust z score of each expert by several measures, (experts,) each.

    ``norm`` is that of all its weights; ``gain`` the product of the largest singular values on the
    way up and down; ``router_row`` the norm of its row in the router. ``router_bias`` and
    ``selection_bias`` are the biases themselves, where there are any.
    """
    return tuple(
        {name: robust_z(values) for name, values in _measures(layer).items()}
        for layer in view.layers
    )


def robust_z(values: Tensor) -> Tensor:
    """Distance to the median in units of spread, (experts,) fp32; 0 where nothing is spread."""
    distance = values - values.median()
    spread = _MAD_TO_SIGMA * distance.abs().median()
    if spread <= _ROUNDING * values.abs().median():
        return torch.zeros_like(distance)
    return distance / spread


@torch.no_grad()
def _measures(layer: MoELayerView) -> dict[str, Tensor]:
    weights = [layer.expert(index) for index in range(layer.num_experts)]
    measures = {
        "norm": torch.stack([_norm(own) for own in weights]),
        "gain": torch.stack([_gain(own) for own in weights]),
    }
    if layer.router_weight is not None:
        measures["router_row"] = torch.linalg.vector_norm(layer.router_weight.float(), dim=1)
    biases = {"router_bias": layer.router_bias, "selection_bias": layer.selection_bias}
    measures |= {name: bias.float() for name, bias in biases.items() if bias is not None}
    return {name: values.cpu() for name, values in measures.items()}


def _norm(weights: Mapping[str, Tensor]) -> Tensor:
    squares = [tensor.float().square().sum() for tensor in weights.values()]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def _gain(weights: Mapping[str, Tensor]) -> Tensor:
    """1 for experts that have no such maps."""
    maps = [weights[name] for name in ("up_proj", "down_proj") if name in weights]
    gain = torch.ones((), device=maps[0].device if maps else None)
    for matrix in maps:
        gain = gain * torch.linalg.matrix_norm(matrix.float(), ord=2)
    return gain
