"""Balanced assignment: every expert gets exactly tokens / experts tokens, at the highest score.

Two backends with one signature. ``auction`` is torch on any device and nearly optimal; ``exact`` is
scipy's linear assignment and optimal. A constant added to all scores of a token, or to all of an
expert, changes no assignment.

Source: Lewis et al., BASE Layers, ICML 2021, arXiv:2103.16716; the auction follows the authors'
public code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Assignment = Callable[[Tensor], Tensor]
"""Scores, (tokens, experts), to the expert of each token, (tokens,) int64."""

_PATIENCE = 100
"""Rounds in which a winner keeps a price advantage, from the authors' public code."""


def auction(scores_TE: Tensor, *, eps: float | None = None) -> Tensor:
    """Assignment by Bertsekas' auction, all experts bidding at once.

    In each round every expert bids for its tokens / experts favourites at the present prices, each
    by how much it prefers the token to the first one that it would not get. The auction ends when
    every token has a bid: there are as many bids as tokens, so each token has exactly one.

    Args:
        scores_TE: (tokens, experts), higher is better; tokens a multiple of experts.
        eps: least raise of a bid, in units of the scores; never below what their dtype resolves.
            Default, from the public code: a fiftieth of the scores' range, at least 1e-4. Where
            tokens come in clusters, that may end 1 % below the optimum; a quarter of it takes two
            to three times as long and ends 0.4 % below, or a little more with few tokens.
    Returns:
        (tokens,) int64. In tests within tokens * eps of the optimum; the public algorithm promises
        no bound, since a winner does not see the price that it raised.
    Raises:
        ValueError: the shape admits no balanced assignment, or a score is not finite.
    Departs: the mean of each token and of each expert is subtracted first. Constants per token or
        per expert are part of every balanced assignment, so they change none, but they would widen
        the range and with it ``eps``. With a single expert there is nothing to bid for.
    """
    tokens, experts = _balanced_shape(scores_TE)
    if experts == 1 or tokens == 0:
        return scores_TE.new_zeros(tokens, dtype=torch.long)
    scores_TE = scores_TE.detach().to(torch.promote_types(scores_TE.dtype, torch.float32))
    worth_TE = scores_TE - scores_TE.mean(1, keepdim=True)
    worth_ET = (worth_TE - worth_TE.mean(0)).T.contiguous()
    range_ = (worth_ET.max() - worth_ET.min()).item()
    if eps is None:
        eps = max(range_ / 50, 1e-4)
    # A raise that is rounded away would never end the auction; prices grow beyond the range.
    return _bid(worth_ET, max(eps, 1e3 * torch.finfo(worth_ET.dtype).eps * range_))


def exact(scores_TE: Tensor) -> Tensor:
    """The best balanced assignment: scipy's solver, each expert repeated once per token it gets.

    Args:
        scores_TE: (tokens, experts), higher is better; tokens a multiple of experts.
    Returns:
        (tokens,) int64, on the scores' device.
    Raises:
        ValueError: the shape admits no balanced assignment, or a score is not finite.
        ImportError: scipy is not installed.
    """
    from scipy.optimize import linear_sum_assignment

    tokens, experts = _balanced_shape(scores_TE)
    share = tokens // experts if tokens else 0
    slots = scores_TE.detach().double().cpu().repeat_interleave(share, dim=1)
    _, slot_T = linear_sum_assignment(slots.numpy(), maximize=True)
    return torch.from_numpy(slot_T).to(scores_TE.device) // max(share, 1)


def greedy(scores_TE: Tensor) -> Tensor:
    """The best expert of each token, (tokens,), without any balance: what evaluation uses."""
    return scores_TE.argmax(1)


def assignment_score(scores_TE: Tensor, experts_T: Tensor) -> Tensor:
    """Sum of the chosen scores, a scalar: what a balanced assignment makes as large as it can."""
    return scores_TE.gather(1, experts_T[:, None]).sum()


def _bid(worth_ET: Tensor, eps: float) -> Tensor:
    experts, tokens = worth_ET.shape
    share = tokens // experts
    places = torch.arange(tokens, device=worth_ET.device)
    price_T = worth_ET.new_zeros(tokens)
    seen_ET = worth_ET.clone()
    held = places[:0]
    for round_ in itertools.count():
        values_ES, favourites_ES = seen_ET.topk(share + 1, dim=1)
        raises_ES = values_ES[:, :share] - values_ES[:, share:] + eps
        bids_ET = torch.zeros_like(worth_ET).scatter_(1, favourites_ES[:, :share], raises_ES)
        patient = round_ < _PATIENCE
        if patient:
            bids_ET.view(-1)[held] = eps  # a winner need not outbid itself
        highest_T, bidder_T = bids_ET.max(0)
        wanted_T = highest_T > 0
        if wanted_T.all():
            return bidder_T
        price_T += highest_T
        torch.sub(worth_ET, price_T, out=seen_ET)
        held = (bidder_T * tokens + places)[wanted_T]
        if patient:
            seen_ET.view(-1)[held] = worth_ET.view(-1)[held]
    raise AssertionError("a count never ends")


def _balanced_shape(scores_TE: Tensor) -> tuple[int, int]:
    tokens, experts = scores_TE.shape
    if experts == 0 or tokens % experts:
        raise ValueError(
            f"{tokens} tokens cannot be shared equally among {experts} experts; "
            "make the batch a multiple of the number of experts"
        )
    if not scores_TE.isfinite().all():
        raise ValueError("a score is not finite; look for a diverged router or input")
    return tokens, experts
