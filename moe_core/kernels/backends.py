"""What may compute the fused operations, and why Triton may not."""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["triton", "grouped_mm", "reference"]

_LOG = logging.getLogger(__name__)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_LOWEST_CAPABILITY = (8, 0)
_MOST_EXPERTS = 1024


def triton_refuses(values: Tensor, num_experts: int) -> str | None:
    """Why the Triton programs cannot compute with these values; None where they can."""
    if not values.is_cuda and not interpreted():
        return f"they need a CUDA device, and the values are on {values.device}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if values.is_cuda and torch.cuda.get_device_capability(values.device) < _LOWEST_CAPABILITY:
        return "they need a GPU of compute capability 8.0 or higher"
    if values.dtype not in _DTYPES:
        return f"they compute bfloat16, float16 and float32, and this is {values.dtype}"
    if num_experts > _MOST_EXPERTS:
        return f"they take up to {_MOST_EXPERTS} experts, and there are {num_experts}"
    return None


def interpreted() -> bool:
    """Whether Triton runs its programs on the CPU, one by one, as its tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def falls_back(values: Tensor, reason: str) -> None:
    """Say once why a GPU does without the Triton programs; of a CPU it is no news."""
    if values.is_cuda:
        _say_once(reason)


@cache
def _say_once(reason: str) -> None:
    _LOG.warning("experts run without the Triton programs: %s", reason)
