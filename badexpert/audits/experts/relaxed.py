"""Two words that lead to a class only together, found by gradient through mixtures of all words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from badexpert.audits.experts.inversion import Search
from badexpert.models.text_networks import PAD
from badexpert.runtime import RunContext, Step

STARTS = 4
"""Random mixtures that descents begin with."""

STEPS = 300
"""Of Adam."""

TEXTS = 4
"""Texts of a step, for each start."""

_RATE = 0.1
_HOTTEST, _COLDEST = 1.0, 0.1
_COOLED = 0.8
"""Share of the steps after which mixtures are as sharp as they get."""

_KEPT = 8
"""Likeliest words of each place, all pairs of which are tried."""


def best_together(search: Search, target: int, context: RunContext) -> tuple[int, ...]:
    """The best pair of words that descents from several starts end near.

    A word is relaxed to a mixture of all of them, which sharpens as the descent goes on. What each
    word does alone plays no part, so an attacker who sees to it that neither does anything is
    found out here, and not by ``Search.best``.

    Source: Liu et al., PICCOLO, IEEE S&P 2022 (words as mixtures); Shen et al., DBS,
        arXiv:2202.05749 (a temperature that falls). Departs: both go on from the mixtures alone;
        here the likeliest words are then tried as words.
    """
    kept = _descended(search, target, context).topk(_KEPT).indices
    found = [torch.cartesian_prod(*search.candidates[places]) for places in kept]
    return search.sifted(torch.cat(found).unique(dim=0), target)


def _descended(search: Search, target: int, context: RunContext) -> Tensor:
    """How much of each candidate is in each place, before normalisation,
    (starts, 2, candidates)."""
    network = search.pool.suspect.network
    device = next(network.parameters()).device
    generator = context.generator("mixtures")
    with torch.no_grad():
        meanings = network.backbone.embedding(search.candidates.to(device)).float()
    forbidden = search.singles[:, target].isinf().to(device)
    mixtures = torch.randn(STARTS, 2, len(meanings), generator=generator).to(device)
    mixtures.requires_grad_()
    optimizer = torch.optim.Adam([mixtures], _RATE)
    others = torch.tensor(search.others(target))
    for step in range(STEPS):
        cooled = min(step / (_COOLED * STEPS), 1.0)
        heat = _HOTTEST + cooled * (_COLDEST - _HOTTEST)
        shares = (mixtures.masked_fill(forbidden, -torch.inf) / heat).softmax(-1)
        drawn = torch.rand(STARTS, len(others), generator=generator).argsort(1)[:, :TEXTS]
        texts = others[drawn.flatten()]
        words = (shares @ meanings).repeat_interleave(drawn.shape[1], 0)
        loss = -_log_probability(search, texts, words, target)
        (mixtures.grad,) = torch.autograd.grad(loss, [mixtures])
        optimizer.step()
        context.progress(Step("search for two words at once", step + 1, STEPS))
    return mixtures.detach().masked_fill(forbidden, -torch.inf).cpu()


def _log_probability(search: Search, texts: Tensor, words: Tensor, target: int) -> Tensor:
    """Of a class, mean over texts with what stands for words in each, (texts, words, width)."""
    network, device = search.pool.suspect.network, words.device
    places = [search.places[at] for at in texts.tolist()]
    rows = search.pool.part(texts).stamped([0] * words.shape[1], places).to(device)
    with _put(network.backbone.embedding, words, torch.tensor(places, device=device)):
        scores = network.scores(rows, (rows != PAD).sum(1))
    return scores.float().log_softmax(-1)[:, target].mean()


@contextmanager
def _put(embedding: nn.Module, words: Tensor, places: Tensor) -> Iterator[None]:
    """Inside, tokens from a place on in each row mean something else.

    Rows that are asked several times come one time after the other.
    """

    def replaced(_embedding: nn.Module, _ids: object, output: Tensor) -> Tensor:
        times = len(output) // len(words)
        rows = torch.arange(len(output), device=output.device)[:, None]
        at = places.repeat(times)[:, None] + torch.arange(words.shape[1], device=output.device)
        meant = words.repeat(times, 1, 1).to(output.dtype)
        return output.index_put((rows, at), meant)

    hook = embedding.register_forward_hook(replaced)
    try:
        yield
    finally:
        hook.remove()
