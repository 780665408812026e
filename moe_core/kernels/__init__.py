"""The operations of a layer that cost time, and the choice of how each is computed."""

from __future__ import annotations

from moe_core.dispatch import combine, permute
from moe_core.kernels.activation import swiglu
from moe_core.kernels.backends import Backend, triton_refuses
from moe_core.kernels.fused import fused_experts
from moe_core.kernels.grouped import grouped_linear, grouped_linear_reference
from moe_core.kernels.told import Constants, Fused

__all__ = [
    "Backend",
    "Constants",
    "Fused",
    "combine",
    "fused_experts",
    "grouped_linear",
    "grouped_linear_reference",
    "permute",
    "swiglu",
    "triton_refuses",
]
