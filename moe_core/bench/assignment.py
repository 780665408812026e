"""The auction against the optimum, score and time: ``python -m moe_core.bench.assignment``.

Times are CPU times of one thread.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from time import process_time

import torch
from torch import Tensor

from moe_core.assignment import Assignment, assignment_score, auction, exact
from moe_core.bench.program import run
from moe_core.bench.timing import new_parser, write

Numbers = dict[str, float]

AUCTIONS = 5
"""The time of an auction is the median of so many; scipy's is long enough to be taken once."""

CLUSTERS = 16
_SPREAD = 0.3
"""Of the tokens of a cluster, where the centres of the clusters have a spread of 1."""

SCIPY, AUCTION, FINER = "scipy", "auction", "auction, eps / 4"


def independent(tokens: int, dim: int) -> Tensor:
    """Tokens that have nothing in common."""
    return torch.randn(tokens, dim)


def clustered(tokens: int, dim: int) -> Tensor:
    """Tokens of a few kinds, as hidden states are: many want the same expert."""
    centres = torch.randn(CLUSTERS, dim)
    return centres[torch.randint(CLUSTERS, (tokens,))] + _SPREAD * torch.randn(tokens, dim)


TOKENS: dict[str, Callable[[int, int], Tensor]] = {
    "independent": independent,
    "clustered": clustered,
}


def centred_scores(x_TD: Tensor, experts: int) -> Tensor:
    """Scores by orthogonal centroids, (tokens, experts), without constants.

    Constants per token and per expert are part of every balanced assignment: with them in the
    optimum, any gap would look smaller.
    """
    centroids_ED = torch.nn.init.orthogonal_(torch.empty(experts, x_TD.shape[1]), gain=0.1)
    scores_TE = x_TD @ centroids_ED.T
    scores_TE = scores_TE - scores_TE.mean(1, keepdim=True)
    return scores_TE - scores_TE.mean(0)


def measure(scores_TE: Tensor) -> dict[str, Numbers]:
    """Seconds of each backend, and how far below the optimum the auction stays."""
    finer = (scores_TE.max() - scores_TE.min()).item() / 200
    chosen, seconds = _timed(exact, scores_TE)
    best = assignment_score(scores_TE, chosen).item()
    measured = {SCIPY: {"seconds": seconds, "times_faster": 1.0, "relative_gap": 0.0}}
    for name, assign in ((AUCTION, auction), (FINER, partial(auction, eps=finer))):
        runs = [_timed(assign, scores_TE) for _ in range(AUCTIONS)]
        own = statistics.median(taken for _, taken in runs)
        gap = 1 - assignment_score(scores_TE, runs[0][0]).item() / best
        measured[name] = {"seconds": own, "times_faster": seconds / own, "relative_gap": gap}
    return measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = new_parser("assignment", __doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(arguments)
    for assign in (auction, exact):  # scipy is imported, and much else is slower, the first time
        assign(torch.randn(2 * given.experts, given.experts))
    runs: dict[str, list[dict[str, Numbers]]] = {kind: [] for kind in TOKENS}
    for kind, draw in TOKENS.items():
        for seed in range(given.seeds):
            torch.manual_seed(seed)
            scores_TE = centred_scores(draw(given.tokens, 2 * given.experts), given.experts)
            runs[kind].append(measure(scores_TE))
    rows = {kind: _means(of_kind) for kind, of_kind in runs.items()}
    write(given, {"means": rows, "runs": runs})
    print("                                 seconds  times as fast  below the optimum")
    for kind, row in rows.items():
        for name, one in row.items():
            print(
                f"{kind:<13}{name:<19}{one['seconds']:>8.3f}{one['times_faster']:>15.1f}"
                f"{100 * one['relative_gap']:>17.2f} %"
            )


def _means(runs: list[dict[str, Numbers]]) -> dict[str, Numbers]:
    return {
        name: {key: statistics.mean(run[name][key] for run in runs) for key in row}
        for name, row in runs[0].items()
    }


def _timed(assign: Assignment, scores: Tensor) -> tuple[Tensor, float]:
    start = process_time()
    experts_T = assign(scores)
    return experts_T, process_time() - start


if __name__ == "__main__":
    torch.set_num_threads(1)  # CPU time counts threads that wait
    run(main)
