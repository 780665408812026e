"""What an extraction will hold in memory, said before it starts."""

from __future__ import annotations

import os

import torch
from torch import nn

from badexpert.config import FULL, LOW_RANK, Copies
from badexpert.errors import AuditError
from badexpert.extraction.low_rank import size_of_updates

_SINGLE = 4
"""Bytes of a number in single precision, in which copies are tuned."""

_STEPPING = 12
"""Bytes a number beside the copy itself: a gradient and two moments of Adam. The mean of an expert
takes eight more, but then fewer copies are there."""

_ROOM = 0.75
"""Of a device's memory, what full copies may take: the rest is for activations."""


def memory_of_copies(network: nn.Module, copies: int, kind: Copies) -> int:
    """Bytes that a network and its tuned copies take at most.

    That is while the last one is tuned, and the search for its learning rate holds the best so far
    beside the one that it tries. Activations come on top; they depend on the inputs' length.
    """
    stored = sum(part.numel() * part.element_size() for part in network.parameters())
    if kind == LOW_RANK:
        tuned, held = size_of_updates(network), copies + 2  # the first of all, which stays zero
    else:
        tuned, held = sum(part.numel() for part in network.parameters()), copies + 1
    return stored + tuned * (held * _SINGLE + _STEPPING)


def choose_copies(
    network: nn.Module, copies: int, wanted: Copies | None, device: torch.device
) -> tuple[Copies, str]:
    """Full copies where there is room for them, updates of one model where there is not.

    Args:
        wanted: takes the choice away.
    Returns:
        The kind, and a sentence with the memory that it takes.
    Raises:
        AuditError: the device does not have that much.
    """
    there = memory_of(device)
    fits = memory_of_copies(network, copies, FULL) <= _ROOM * there
    kind: Copies = wanted or (FULL if fits else LOW_RANK)
    needed = memory_of_copies(network, copies, kind)
    sizes = f"{_readable(needed)} for the model and {copies} tuned copies"
    if needed > there:
        raise AuditError(
            f"extraction needs {sizes}, beside activations, and {device} has "
            f"{_readable(there)}. {_LESS[kind]}"
        )
    return kind, f"{_SAID[kind]}: {sizes}, beside activations"


_SAID: dict[Copies, str] = {
    FULL: "full copies are tuned",
    LOW_RANK: "low-rank updates are tuned, and all copies share the model's weights",
}
_LESS: dict[Copies, str] = {
    FULL: "Leave extraction.copies out, which then tunes low-rank updates, or use a larger device",
    LOW_RANK: "Use a larger device, or a smaller model of the family",
}


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _readable(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:.1f} MiB"
