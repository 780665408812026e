"""The logits inside a router, seen and changed where the router computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LAST = -1e3
"""Of a forbidden expert among scores for selection: below all others, yet a sum with it still tells
a group that has one expert left from a group that has none."""


class LogitTap(TorchFunctionMode):
    """While a router runs under it: keep the logits, and let no forbidden expert be chosen.

    The first linear map of a router makes its logits. Those of forbidden experts become -inf there,
    and come last where a bias for selection is added, which could lift a score of 0 above others.
    All that follows (scores, groups, top-k, normalisation, capacity) is the router's own code, so
    that no family's rule is written down twice.

    Args:
        forbidden: indices of experts.
        selection_bias: the tensor that the router adds before it chooses; or None.
    Attributes:
        logits: (..., experts) as the router goes on with them; None until it computed them.
    """

    def __init__(self, forbidden: Iterable[int], selection_bias: Tensor | None) -> None:
        super().__init__()
        self._forbidden = sorted(forbidden)
        self._selection_bias = selection_bias
        self.logits: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.linear and self.logits is None:
            self.logits = result = self._filled(result, -torch.inf)
        elif self._selection_bias is not None and any(arg is self._selection_bias for arg in args):
            result = self._filled(result, _LAST)
        return result

    def _filled(self, values: Tensor, value: float) -> Tensor:
        if not self._forbidden:
            return values
        return values.index_fill(-1, torch.tensor(self._forbidden, device=values.device), value)
