"""What the hooks of a layer cost, off and recording: ``python -m moe_core.bench.hooks``.

Costs are small beside the noise of a shared machine, so three things hold it down. Passes are
compared within a round, and every second round runs backwards. The layer without hooks runs twice
in each: what these two differ by is noise. A cost that does not depend on the size of the layer is
measured on one so small that there is little else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from time import process_time

import torch
from torch import Tensor

from moe_core import kernels
from moe_core.bench.program import run
from moe_core.bench.timing import Median, arguments, in_turns, write
from moe_core.dispatch import plan
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK

BARE, AGAIN, OFF, RECORDING = "bare", "bare again", "off", "recording"
SMALL = 8
"""Tokens, width, inner width and experts of the small layer."""
PASSES = 200
"""Of the small layer, timed together."""


def bare(layer: MoELayer, x_TD: Tensor) -> Tensor:
    """The layer as it would be without any hooks."""
    routing = layer.router(x_TD)
    dispatch = plan(routing.experts_TK, layer.num_experts)
    y_SD = layer.experts(x_TD, dispatch, routing)
    return kernels.combine(y_SD, routing.weights_TK, dispatch).to(x_TD.dtype)


def recorded(layer: MoELayer, x_TD: Tensor) -> None:
    """One pass, and what a recording keeps of it."""
    with layer.recording():
        layer(x_TD)


def variants(layer: MoELayer, x_TD: Tensor, passes: int) -> dict[str, Callable[[], float]]:
    """Each runs so many passes and returns the CPU time of one."""
    calls: dict[str, Callable[[], object]] = {
        BARE: lambda: bare(layer, x_TD),
        AGAIN: lambda: bare(layer, x_TD),
        OFF: lambda: layer(x_TD),
        RECORDING: lambda: recorded(layer, x_TD),
    }
    return {name: partial(_seconds_of, call, passes) for name, call in calls.items()}


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    given = arguments("hooks", __doc__, rounds=200).parse_args(argv)
    torch.manual_seed(0)
    dtype = getattr(torch, given.dtype)
    layer = _layer(given.dim, given.inner_dim, given.experts, given.top_k).to(dtype)
    x_TD = torch.randn(given.tokens, given.dim, dtype=dtype)
    whole = in_turns(variants(layer, x_TD, 1), given.rounds)
    small = _layer(SMALL, SMALL, SMALL, given.top_k).to(dtype)
    few_TD = torch.randn(SMALL, SMALL, dtype=dtype)
    fixed = in_turns(variants(small, few_TD, PASSES), given.rounds)

    passed = Median.of([1e3 * seconds for seconds in whole[BARE]])
    ratios = _against_bare(whole, lambda one, other: one / other)
    added = _against_bare(fixed, lambda one, other: 1e6 * (one - other))
    rows = {
        name: {"times_bare": asdict(ratios[name]), "microseconds_small_layer": asdict(added[name])}
        for name in ratios
    }
    write(given, {"milliseconds_bare": asdict(passed), "hooks": rows})
    print(f"a pass without hooks: {_shown(passed, 1)} ms; medians, with 95 % intervals")
    print("              times bare                    added to a small layer")
    for name in ratios:
        print(f"{name:<12}{_shown(ratios[name], 4):<30}{_shown(added[name], 1)} us")


def _layer(dim: int, inner_dim: int, experts: int, top_k: int) -> MoELayer:
    return MoELayer(SoftmaxTopK(dim, experts, top_k), SwiGLUExperts(dim, inner_dim, experts))


def _seconds_of(call: Callable[[], object], passes: int) -> float:
    """CPU time, which other programs on the machine disturb least."""
    start = process_time()
    for _ in range(passes):
        call()
    return (process_time() - start) / passes


def _against_bare(
    seconds: Mapping[str, Sequence[float]], compare: Callable[[float, float], float]
) -> dict[str, Median]:
    return {
        name: Median.of([compare(*pair) for pair in zip(taken, seconds[BARE], strict=True)])
        for name, taken in seconds.items()
        if name != BARE
    }


def _shown(median: Median, digits: int) -> str:
    return f"{median.median:.{digits}f} ({median.low:.{digits}f} to {median.high:.{digits}f})"


if __name__ == "__main__":
    torch.set_num_threads(1)  # CPU time counts threads that wait
    run(main)
