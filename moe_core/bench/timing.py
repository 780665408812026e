"""Times that can be compared: taken in turns, in one process, on the same inputs."""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

import torch

from moe_core.files import write_text


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another, over rounds that ran both.

    Attributes:
        median: over the rounds.
        lowest: of a round.
        highest: of a round.
    """

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
        """Of two series of the same rounds."""
        ratios = [one / other for one, other in zip(seconds, reference, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class Median:
    """Of values of the same thing, with an interval that holds the true one in 95 of 100 cases.

    The interval lies between two of the sorted values, and assumes nothing of the noise but that
    the values are independent.

    Attributes:
        median: of the values.
        low: end of the interval.
        high: end of the interval.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value; up to five are the interval from the lowest to the highest."""
        ranked = sorted(values)
        # How many values lie below the true median is binomial: each does with probability 1/2.
        chances = (math.comb(len(ranked), few) / 2 ** len(ranked) for few in range(len(ranked)))
        below = max(0, sum(tail <= 0.025 for tail in accumulate(chances)) - 1)
        return cls(statistics.median(ranked), ranked[below], ranked[-1 - below])


def in_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; every other round runs in the opposite order.

    A first round that does not count warms up.

    Args:
        calls: each runs once and returns the seconds that are to count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            taken = calls[name]()
            if turn:
                seconds[name].append(taken)
    return seconds


def new_parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """What every benchmark of this package takes."""
    parser = argparse.ArgumentParser(prog=f"python -m moe_core.bench.{module}", description=doc)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return parser


def arguments(module: str, doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """What benchmarks of one layer take."""
    parser = new_parser(module, doc)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--inner-dim", type=int, default=1024)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds that count")
    return parser


def write(given: argparse.Namespace, results: Mapping[str, object]) -> None:
    """Write what was measured, under which settings and where."""
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    machine = {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": settings, **machine, **results}, indent=1)
    write_text(given.out, text + "\n")
