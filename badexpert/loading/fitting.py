"""Holding a checkpoint against a network: common prefixes, differences, and loading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "backbone.", "encoder.")
_MAX_PREFIXES = 4

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def strip_prefixes(tensors: Mapping[str, Tensor], expected: Iterable[str]) -> Mapping[str, Tensor]:
    """Take off prefixes that all names share, as far as that makes names match.

    Args:
        expected: the names that the network wants.
    Returns:
        The tensors under the names that match best; unchanged where no prefix helps.
    """
    wanted = set(expected)
    best = current = tensors
    for _ in range(_MAX_PREFIXES):
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in current)), None)
        if prefix is None or not current:
            break
        current = {name.removeprefix(prefix): tensor for name, tensor in current.items()}
        if len(wanted & set(current)) > len(wanted & set(best)):
            best = current
    return best


@dataclass(frozen=True)
class Mismatch:
    """How a checkpoint differs from a network. Each entry says one tensor."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        groups = (
            ("missing from the file", self.missing),
            ("not in the architecture", self.unexpected),
            ("of another shape", self.reshaped),
        )
        return "; ".join(
            f"{len(entries)} {label}: {_bounded(entries)}" for label, entries in groups if entries
        )


def compare(tensors: Mapping[str, Tensor], module: nn.Module) -> Mismatch:
    """What keeps the tensors from being the state of the module.

    A missing ``num_batches_tracked`` is no difference: torch before 0.4.1 did not save it, and
    nothing is computed from it in eval mode.
    """
    have, want = shapes_of(tensors), shapes_of(module.state_dict())
    missing = (n for n in want if n not in have and not n.endswith("num_batches_tracked"))
    reshaped = (
        f"{name} {have[name]} in the file, {shape} in the architecture"
        for name, shape in want.items()
        if name in have and have[name] != shape
    )
    return Mismatch(tuple(missing), tuple(n for n in have if n not in want), tuple(reshaped))


def _bounded(entries: tuple[str, ...], most: int = 5) -> str:
    shown = ", ".join(entries[:most])
    return shown if len(entries) <= most else f"{shown}, and {len(entries) - most} more"
