"""A layer's experts as one operation, with what an audit asks of them from inside it.

One function, three ways behind it: the Triton programs in ``gpu``, torch's grouped products, and a
plain loop in fp32 that the other two are held against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_core.kernels import backends
from moe_core.kernels.backends import Backend
from moe_core.kernels.plain import by_grouped_products, by_loop
from moe_core.kernels.told import Constants, Fused, Inputs

_MOST_SLOTS = 2**31 - 2**16


def fused_experts(
    x_TD: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    *,
    constants: Constants | None = None,
    direction_D: Tensor | None = None,
    audit: bool = False,
    backend: Backend | None = None,
) -> Fused:
    """``sum_k weight_k * down_k(silu(gate_k x) * up_k x)`` over the experts of each token.

    Tokens, both matrices and gate weights get gradients; what an audit asked for carries none. The
    gradient of the gate weights times the gate weights is how much the loss owes to each expert.

    Args:
        x_TD: (tokens, width).
        gate_up_proj: (experts, 2 * inner, width); rows of the gate, then rows of up.
        down_proj: (experts, width, inner).
        experts_TK: (tokens, slots) integers; a slot whose index is no expert's runs nothing, which
            is how an expert is ablated to zero.
        weights_TK: gate weights, (tokens, slots).
        constants: experts that answer with one vector instead, and are not run.
        direction_D: (width,); what to project the experts' answers on.
        audit: whether norms and alignments are wanted.
        backend: None takes the first that can.
    Raises:
        ValueError: shapes that do not belong together, or a backend that cannot compute this.
    """
    given = _checked(x_TD, gate_up_proj, down_proj, experts_TK, weights_TK)
    inputs = Inputs(*given, constants, direction_D, audit)
    if backend is None:
        backend = choose_backend(inputs)
    fused = _BY[backend](inputs)
    return fused._replace(out_TD=fused.out_TD.to(x_TD.dtype))


def choose_backend(inputs: Inputs) -> Backend:
    """The fastest backend that can compute this; on a GPU it is logged once why not Triton."""
    reason = _triton_refuses(inputs)
    if reason is None:
        return "triton"
    backends.falls_back(inputs.x_TD, reason)
    return "grouped_mm"


def _triton_refuses(inputs: Inputs) -> str | None:
    slots = inputs.experts_TK.numel()
    if slots > _MOST_SLOTS:
        return f"they take up to {_MOST_SLOTS} slots, and there are {slots}"
    return backends.triton_refuses(inputs.x_TD, len(inputs.gate_up_proj))


def _by_triton(inputs: Inputs) -> Fused:
    reason = _triton_refuses(inputs)
    if reason is not None:
        raise ValueError(f"the Triton programs cannot compute this: {reason}")
    from moe_core.kernels.gpu.ops import by_triton

    return by_triton(inputs)


_BY = {"triton": _by_triton, "grouped_mm": by_grouped_products, "reference": by_loop}


def _checked(
    x_TD: Tensor, gate_up_proj: Tensor, down_proj: Tensor, experts_TK: Tensor, weights_TK: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """In the dtypes that all backends compute in.

    Raises:
        ValueError: shapes or dtypes that do not belong together.
    """
    experts, width, inner = down_proj.shape
    fits = (
        gate_up_proj.shape == (experts, 2 * inner, width)
        and x_TD.shape[1:] == (width,)
        and experts_TK.shape == weights_TK.shape
        and len(experts_TK) == len(x_TD)
        and down_proj.dtype == gate_up_proj.dtype
    )
    if not fits:
        told = ", ".join(
            f"{name} {tuple(part.shape)} {part.dtype}"
            for name, part in (
                ("x", x_TD),
                ("gate_up_proj", gate_up_proj),
                ("down_proj", down_proj),
                ("experts", experts_TK),
                ("weights", weights_TK),
            )
        )
        raise ValueError(f"these do not belong together: {told}")
    dtype = gate_up_proj.dtype
    wide = torch.promote_types(dtype, torch.float32)
    return x_TD.to(dtype), gate_up_proj, down_proj, experts_TK.long(), weights_TK.to(wide)
