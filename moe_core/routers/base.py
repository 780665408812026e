"""What every router is: tokens in, a ``Routing`` out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core.routing import Routing

INIT_STD = 0.02


class Router(nn.Module, ABC):
    """Chooses experts for tokens.

    The mathematics is done in fp32 (in fp64 for fp64 tokens), whatever the tokens are and under
    autocast too. The auxiliary loss travels in the ``Routing``; a router keeps none.

    Attributes:
        dim: width of a token.
        num_experts: how many experts there are to choose from.
        top_k: experts per token; for routers that choose a varying number, their mean or minimum.
        excluded: experts that must not be chosen, as if they had been cut out of the model.
    """

    def __init__(self, dim: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k={top_k} of {num_experts} experts; give 1 to {num_experts}")
        self.dim = dim
        self.num_experts = num_experts
        self.top_k = top_k
        self.excluded: frozenset[int] = frozenset()

    @abstractmethod
    def forward(self, x_TD: Tensor, ids_T: Tensor | None = None) -> Routing:
        """Route tokens.

        Args:
            x_TD: (tokens, width).
            ids_T: (tokens,) int64 vocabulary indices; only routers that hash them read them.
        """

    def __call__(self, x_TD: Tensor, ids_T: Tensor | None = None) -> Routing:
        routing: Routing = super().__call__(x_TD, ids_T)
        return routing

    @property
    def logit_bias(self) -> Tensor | None:
        """What is added to the logits, (experts,); None where nothing is."""
        return None

    @property
    def selection_bias(self) -> Tensor | None:
        """What counts for the choice and not for the weights, (experts,); None without it."""
        return None

    def after_step(self) -> None:
        """Adapt what learns without gradients; a trainer calls it after each optimiser step."""

    @contextmanager
    def excluding(self, experts: Iterable[int]) -> Iterator[None]:
        """Route around these experts, in addition to those already excluded.

        Raises:
            ValueError: an index that is no expert, or nothing would be left to choose from.
        """
        before = self.excluded
        excluded = before | frozenset(experts)
        if not excluded <= frozenset(range(self.num_experts)):
            raise ValueError(f"experts {sorted(excluded)} of {self.num_experts}: no such index")
        if len(excluded) == self.num_experts:
            raise ValueError(f"all {self.num_experts} experts are excluded; leave at least one")
        self.excluded = excluded
        try:
            yield
        finally:
            self.excluded = before


class LinearRouter(Router):
    """A router that scores tokens with one row of weights per expert.

    Subclasses say in ``route`` what becomes of the logits. A logit of -inf forbids an expert:
    ``route`` must not choose it, and must treat the others as if it did not exist.

    Attributes:
        weight: (rows, width); one row per expert, then any further rows a subclass asked for.
    """

    def __init__(self, dim: int, num_experts: int, top_k: int, *, extra_rows: int = 0) -> None:
        super().__init__(dim, num_experts, top_k)
        self.weight = nn.Parameter(torch.empty(num_experts + extra_rows, dim))
        nn.init.normal_(self.weight, std=INIT_STD)

    @abstractmethod
    def route(self, logits_TE: Tensor) -> Routing:
        """Choose from logits, (tokens, rows), at least fp32."""

    def forward(self, x_TD: Tensor, ids_T: Tensor | None = None) -> Routing:
        return self.route(self.logits(x_TD))

    def logits(self, x_TD: Tensor) -> Tensor:
        """Scores of each token, (tokens, rows), at least fp32; -inf for excluded experts."""
        logits_TE = linear_fp32(x_TD, self.weight)
        if self.excluded:
            logits_TE = logits_TE.index_fill(
                1, torch.tensor(sorted(self.excluded), device=x_TD.device), -torch.inf
            )
        return logits_TE


def linear_fp32(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """``x @ weight.T`` in fp32 at least, under autocast too; (tokens, rows)."""
    dtype = torch.promote_types(x_TD.dtype, torch.float32)
    with torch.autocast(x_TD.device.type, enabled=False):
        return F.linear(x_TD.to(dtype), weight_ED.to(dtype))
