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
_LOWEST_CAPABILITY = 8
_MOST_EXPERTS = 1024
# Looked up now, since torch.compile cannot trace the question.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def triton_refuses(values: Tensor, num_experts: int) -> str | None:
    """Why the Triton programs cannot compute with these values; None where they can."""
    if not values.is_cuda and not interpreted():
        return f"they need a CUDA device, and the values are on {values.device}"
    if not _HAS_TRITON:
        return "the package triton is not installed"
    # Properties, and not the capability: torch.compile knows them as constants.
    if values.is_cuda and _major(values) < _LOWEST_CAPABILITY:
        return f"they need a GPU of compute capability {_LOWEST_CAPABILITY}.0 or higher"
    if values.dtype not in _DTYPES:
        return f"they compute bfloat16, float16 and float32, and this is {values.dtype}"
    if num_experts > _MOST_EXPERTS:
        return f"they take up to {_MOST_EXPERTS} experts, and there are {num_experts}"
    return None


def _major(values: Tensor) -> int:
    major: int = torch.cuda.get_device_properties(values.device).major
    return major


def interpreted() -> bool:
    """Whether Triton runs its programs on the CPU, one by one, as its tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def falls_back(values: Tensor, reason: str) -> None:
    """Say once why a GPU does without the Triton programs; of a CPU it is no news."""
    if values.is_cuda and not torch.compiler.is_compiling():
        _say_once(reason)


@cache
def _say_once(reason: str) -> None:
    _LOG.warning("experts run without the Triton programs: %s", reason)
