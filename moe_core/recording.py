"""What an audit may learn from a layer while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from moe_core.dispatch import Dispatch
from moe_core.routing import Routing


class Observer(ABC):
    """Sees each pass through a layer, after all interventions.

    Attributes:
        needs_rows: False where ``see_fused`` will do, which saves writing all rows out.
    """

    needs_rows = True

    def see_fused(self, routing: Routing, contribution_TK: Tensor) -> None:
        """Take note of a pass whose rows nobody has seen; only called without ``needs_rows``.

        Args:
            contribution_TK: norm of ``weight * expert(x)``, (tokens, slots); 0 where none ran.
        """
        raise NotImplementedError(f"{type(self).__name__} looks at rows")

    @abstractmethod
    def see(self, routing: Routing, dispatch: Dispatch, y_SD: Tensor) -> None:
        """Take note; all tensors may still carry gradient.

        Args:
            y_SD: what the experts returned, (rows, width), before the gate weights.
        """


class Record(NamedTuple):
    """One pass through a layer, without gradient.

    Attributes:
        probs_TE, experts_TK, weights_TK: as in ``Routing``.
        contribution_TK: norm of ``weight * expert(x)``, (tokens, slots); 0 where none ran.
        load_E: rows that each expert ran, (experts,) int64.
    """

    probs_TE: Tensor
    experts_TK: Tensor
    weights_TK: Tensor
    contribution_TK: Tensor
    load_E: Tensor


class Recording(Observer):
    """All passes through a layer while it was recorded.

    Attributes:
        passes: in order.
    """

    needs_rows = False

    def __init__(self) -> None:
        self.passes: list[Record] = []

    def see(self, routing: Routing, dispatch: Dispatch, y_SD: Tensor) -> None:
        weights_TK = routing.weights_TK.detach()
        wide = torch.promote_types(y_SD.dtype, torch.float32)
        norms = torch.linalg.vector_norm(y_SD.detach(), dim=-1, dtype=wide)
        norm_TK = norms.new_zeros(weights_TK.numel()).index_copy(0, dispatch.slots_S, norms)
        self._note(routing, weights_TK.abs() * norm_TK.view_as(weights_TK), _counts(dispatch))

    def see_fused(self, routing: Routing, contribution_TK: Tensor) -> None:
        self._note(routing, contribution_TK, routing.load_E)

    def _note(self, routing: Routing, contribution_TK: Tensor, load_E: Tensor) -> None:
        self.passes.append(
            Record(
                probs_TE=routing.probs_TE.detach(),
                experts_TK=routing.experts_TK,
                weights_TK=routing.weights_TK.detach(),
                contribution_TK=contribution_TK,
                load_E=load_E,
            )
        )

    @property
    def load_E(self) -> Tensor:
        """Rows that each expert ran in all passes, (experts,) int64.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self.passes:
            raise ValueError("nothing ran while the layer was recorded")
        return torch.stack([record.load_E for record in self.passes]).sum(0)


class OutputMeans(Observer):
    """Mean answer of each expert over the rows it ran, for ablation to the mean."""

    def __init__(self) -> None:
        self._sum_ED: Tensor | None = None
        self._count_E: Tensor | None = None

    def see(self, routing: Routing, dispatch: Dispatch, y_SD: Tensor) -> None:
        counts_E = _counts(dispatch)
        segments = y_SD.detach().float().split(counts_E.tolist())
        sums_ED = torch.stack([rows.sum(0) for rows in segments])
        self._sum_ED = sums_ED if self._sum_ED is None else self._sum_ED + sums_ED
        self._count_E = counts_E if self._count_E is None else self._count_E + counts_E

    @property
    def mean_ED(self) -> Tensor:
        """(experts, width) fp32; zeros for an expert that never ran.

        Raises:
            ValueError: nothing was observed.
        """
        if self._sum_ED is None or self._count_E is None:
            raise ValueError("nothing ran while the layer was observed")
        return self._sum_ED / self._count_E.clamp(min=1).unsqueeze(-1)


def _counts(dispatch: Dispatch) -> Tensor:
    return dispatch.ends_E.diff(prepend=dispatch.ends_E.new_zeros(1)).long()
