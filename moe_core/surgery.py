"""Other weights for single experts, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class HoldsExperts(Protocol):
    """Experts whose weights can be read, and written through views, by index and name."""

    @property
    def num_experts(self) -> int: ...
    def expert(self, index: int) -> dict[str, Tensor]: ...


@contextmanager
def replaced(experts: HoldsExperts, weights: Mapping[int, Mapping[str, Tensor]]) -> Iterator[None]:
    """Give experts other weights inside the context; the old ones are back after it, bit for bit.

    Args:
        weights: by expert, then by name as in ``experts.expert(index)``; names left out stay.
    Raises:
        ValueError: no such expert or name, or another shape; nothing was changed.
    """
    for index, tensors in weights.items():
        _check(experts, index, tensors)
    before = {
        index: {name: experts.expert(index)[name].detach().clone() for name in tensors}
        for index, tensors in weights.items()
    }
    try:
        _write(experts, weights)
        yield
    finally:
        _write(experts, before)


def _check(experts: HoldsExperts, index: int, tensors: Mapping[str, Tensor]) -> None:
    if not 0 <= index < experts.num_experts:
        raise ValueError(f"expert {index} of {experts.num_experts}: no such index")
    own = experts.expert(index)
    for name, tensor in tensors.items():
        if name not in own:
            raise ValueError(f"an expert has {', '.join(sorted(own))}; got {name!r}")
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{name} of expert {index} is {tuple(own[name].shape)}; got {tuple(tensor.shape)}"
            )


@torch.no_grad()
def _write(experts: HoldsExperts, weights: Mapping[int, Mapping[str, Tensor]]) -> None:
    for index, tensors in weights.items():
        own = experts.expert(index)
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
