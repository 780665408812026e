"""Small Mixture-of-Experts layers, and what they should compute, token by token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK
from moe_core.routing import Routing

DIM, INNER, EXPERTS, TOKENS = 8, 12, 4, 16


def layer(top_k: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> MoELayer:
    """Weights large enough that experts differ visibly."""
    torch.manual_seed(seed)
    made = MoELayer(SoftmaxTopK(DIM, EXPERTS, top_k), SwiGLUExperts(DIM, INNER, EXPERTS))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.to(dtype).eval()


def tokens(count: int = TOKENS, *, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)).to(dtype)


def swiglu(x: Tensor, own: Mapping[str, Tensor]) -> Tensor:
    """The answer of one expert, given as ``MoELayer.expert`` gives it."""
    return own["down_proj"] @ (F.silu(own["gate_proj"] @ x) * (own["up_proj"] @ x))


def token_by_token(made: MoELayer, x_TD: Tensor, routing: Routing) -> Tensor:
    """The definition of the layer, in the plainest words."""
    out = torch.zeros_like(x_TD)
    for token, (experts, weights) in enumerate(
        zip(routing.experts_TK.tolist(), routing.weights_TK, strict=True)
    ):
        for expert, weight in zip(experts, weights, strict=True):
            if expert >= 0:
                own = made.expert(expert)
                answer = swiglu(x_TD[token], own)
                out[token] = out[token] + weight * answer
    return out
