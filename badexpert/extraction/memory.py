"""What an extraction will hold in memory, said before it starts."""

from __future__ import annotations

import os

import torch
from torch import nn

from badexpert.errors import AuditError

_SINGLE = 4
"""Bytes of a number in single precision, in which copies are tuned."""

_TUNING = 20
"""Bytes a number beside the copy itself: a gradient, two moments of Adam, and a sum of weights in
double precision."""


def memory_of_copies(network: nn.Module, copies: int) -> int:
    """Bytes that a network and its tuned copies take while the last one is tuned.

    Activations come on top; they depend on the length of the inputs.
    """
    numbers = sum(part.numel() for part in network.parameters())
    stored = sum(part.numel() * part.element_size() for part in network.parameters())
    return stored + numbers * (copies * _SINGLE + _TUNING)


def check_memory(network: nn.Module, copies: int, device: torch.device) -> str:
    """Say what will be needed.

    Returns:
        A sentence with the sizes.
    Raises:
        AuditError: the device does not have that much.
    """
    needed, there = memory_of_copies(network, copies), memory_of(device)
    sizes = f"{_readable(needed)} for the model and {copies} tuned copies"
    if needed > there:
        raise AuditError(
            f"extraction needs {sizes}, beside activations, and {device} has "
            f"{_readable(there)}. Use a larger device, or a smaller model of the family"
        )
    return f"{sizes}, beside activations"


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _readable(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:.1f} MiB"
