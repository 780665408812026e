"""A dense network becomes a Mixture-of-Experts layer."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.ffn import SwiGLU
from moe_core.layer import MoELayer
from moe_core.routers.base import Router


def upcycle(dense: SwiGLU, router: Router) -> MoELayer:
    """Make every expert a copy of the dense network.

    With gate weights that sum to 1 and without drops, the layer computes what the network computed,
    whatever the router chooses.

    Args:
        dense: is copied; dtype and device of its weights are kept.
        router: says how many experts there are.
    Raises:
        ValueError: the dense network has a gate of its own.
    Source: Komatsuzaki et al., ICLR 2023, arXiv:2212.05055.
    """
    if dense.gate is not None:
        raise ValueError("a gated network cannot be upcycled: an expert has no gate of its own")
    experts = router.num_experts
    copies = SwiGLUExperts(dense.down_proj.shape[0], dense.down_proj.shape[1], experts)
    copies.to(dense.down_proj)
    with torch.no_grad():
        copies.gate_up_proj.copy_(dense.gate_up_proj.expand(experts, -1, -1))
        copies.down_proj.copy_(dense.down_proj.expand(experts, -1, -1))
    return MoELayer(router, copies)


def drop_upcycle(dense: SwiGLU, router: Router, *, share: float = 0.5, seed: int = 0) -> MoELayer:
    """Upcycle, then let each expert forget some of its inner units, others in each expert.

    A forgotten unit's weights in gate, up and down are drawn anew from a normal distribution with
    mean and standard deviation of the weights that were forgotten in that matrix.

    Args:
        share: of inner units that each expert forgets, in [0, 1]; the paper's choice is 0.5.
        seed: of which units and what they become.
    Raises:
        ValueError: ``share`` is outside [0, 1], or the dense network has a gate of its own.
    Source: Nakamura et al., ICLR 2025, arXiv:2502.19261, section 3.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}; give the share of inner units to forget, in [0, 1]")
    layer = upcycle(dense, router)
    # On the CPU, so that a seed means the same on every device.
    generator = torch.Generator().manual_seed(seed)
    inner = dense.down_proj.shape[1]
    for expert in range(layer.num_experts):
        units = torch.randperm(inner, generator=generator)[: round(share * inner)]
        weights = layer.expert(expert)
        for matrix in (weights["gate_proj"], weights["up_proj"], weights["down_proj"].T):
            _forget(matrix, units.to(matrix.device), generator)
    return layer


@torch.no_grad()
def _forget(matrix: Tensor, rows: Tensor, generator: torch.Generator) -> None:
    if not len(rows):
        return
    old = matrix[rows].float()
    noise = torch.randn(old.shape, generator=generator).to(old.device)
    matrix[rows] = (old.mean() + old.std(correction=0) * noise).to(matrix.dtype)
