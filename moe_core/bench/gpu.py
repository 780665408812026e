"""All that a GPU is needed for, in one call: ``python -m moe_core.bench.gpu --out gpu.json``.

Checks first that what the Triton programs compute is right, then finds the best tiles, then
measures. Each part stops when its share of ``--seconds`` is over, and what is known is written
after each. ``--tuned`` is where the best tiles go; without it nothing that is checked in changes.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from moe_core.bench import fused
from moe_core.bench.fused import SHAPES, Problem, Shape, problem
from moe_core.bench.program import run
from moe_core.files import write_text
from moe_core.kernels import fused_experts
from moe_core.kernels.gpu.tuned import Entry, Tile, Tuned, render, tuned, tuned_as

_LOG = logging.getLogger(__name__)

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
"""Largest norm of an error, as a part of the norm of what it should be."""
CHECKED, TUNED = 0.3, 0.4
"""Shares of the time."""
_WIDTHS = (64, 96, 136, 256)
"""Few, since each kind of width is compiled anew; 136 fits no tile."""

_CANDIDATES = {
    "up": [
        Tile(128, 128, 64, 8, 8, 3),
        Tile(128, 128, 64, 8, 8, 4),
        Tile(128, 128, 64, 16, 8, 4),
        Tile(128, 64, 64, 8, 8, 4),
        Tile(64, 128, 64, 8, 8, 4),
        Tile(64, 128, 64, 8, 4, 4),
    ],
    "rows_product": [
        Tile(128, 256, 64, 8, 8, 3),
        Tile(128, 256, 64, 8, 8, 4),
        Tile(128, 256, 64, 16, 8, 3),
        Tile(128, 128, 64, 8, 8, 4),
        Tile(64, 256, 64, 8, 8, 4),
    ],
    "inner_gradient": [
        Tile(128, 128, 64, 8, 8, 3),
        Tile(128, 128, 64, 8, 8, 4),
        Tile(128, 64, 64, 8, 8, 4),
        Tile(64, 128, 64, 8, 8, 4),
    ],
    "weight_gradient": [
        Tile(128, 256, 64, 8, 8, 3),
        Tile(128, 256, 64, 8, 8, 4),
        Tile(128, 128, 64, 8, 8, 4),
        Tile(256, 128, 64, 8, 8, 3),
    ],
}

_OF_FORWARD = ("up", "rows_product")
_MEASURED = (
    ("qwen3-30b", 32768),
    ("olmoe", 16384),
    ("mixtral", 16384),
    ("qwen3-30b", 4096),
    ("deepseek", 16384),
)
"""In this order, since time may run out."""


def checked(device: torch.device, until: float) -> Iterator[dict[str, Any]]:
    """Random layers in every dtype against the loop in fp32, and each twice."""
    draw = random.Random(0)
    for _ in range(100):
        for dtype in TOLERANCE:
            if monotonic() > until:
                return
            experts = draw.choice((1, 3, 8, 60))
            shape = Shape(
                draw.choice(_WIDTHS),
                draw.choice(_WIDTHS),
                experts,
                draw.randint(1, min(experts, 8)),
            )
            yield check(problem(shape, draw.randint(1, 3000), dtype, device), shape)


def check(made: Problem, shape: Shape) -> dict[str, Any]:
    """Errors of the output and of every gradient, and whether two runs are bit-identical."""
    dtype = made.x.dtype
    wide = Problem(
        *(
            part.detach().float().requires_grad_(part.requires_grad)
            if part.is_floating_point()
            else part
            for part in made
        )
    )
    once, again, expected = (
        outcome(made, "triton"),
        outcome(made, "triton"),
        outcome(wide, "reference"),
    )
    names = ("out", "x", "gate_up", "down", "weights")
    errors = {
        name: float((got.float() - want).norm() / want.norm().clamp(min=1e-30))
        for name, got, want in zip(names, once, expected, strict=True)
    }
    same = all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
    return {
        **shape._asdict(),
        "tokens": len(made.x),
        "dtype": str(dtype).removeprefix("torch."),
        "errors": errors,
        "bit_identical": same,
        "right": same and all(error <= TOLERANCE[dtype] for error in errors.values()),
    }


def outcome(made: Problem, backend: Any) -> list[torch.Tensor]:
    """The output and every gradient."""
    x, gate_up, down, experts, weights, grad = made
    out = fused_experts(x, gate_up, down, experts, weights, backend=backend).out_TD
    return [out.detach(), *torch.autograd.grad(out, made.learned, grad)]


def best_tiles(
    made: Problem, start: Tuned, device: torch.device, until: float
) -> dict[str, dict[Tile, float]]:
    """Milliseconds of a pass by program and candidate, fastest first, one program at a time."""
    found: dict[str, dict[Tile, float]] = {}
    for program, tiles in _CANDIDATES.items():
        kind: fused.Kind = "forward" if program in _OF_FORWARD else "forward and backward"
        times: dict[Tile, float] = {}
        for tile in tiles:
            if monotonic() > until:
                break
            times[tile] = _milliseconds(made, kind, device, with_tile(start, program, tile))
            _LOG.info("%s %s: %.3f ms", program, tuple(tile), times[tile])
        ranked = sorted(times, key=times.__getitem__)
        for tile in ranked[:1]:
            start = with_tile(start, program, tile)
        found[program] = {tile: times[tile] for tile in ranked}
    return found


def with_tile(start: Tuned, program: str, tile: Tile, least_rows: int = 0) -> Tuned:
    """The same, but 16-bit numbers take this tile where it fits and experts have these rows."""
    others = [
        one
        for one in start.entries[program]
        if one.itemsize != 2 or not one.fits or one.rows < least_rows
    ]
    entries = {**start.entries, program: [Entry(2, True, least_rows, tile), *others]}
    return start._replace(entries=entries)


def gathers(made: Problem, start: Tuned, device: torch.device) -> dict[str, float]:
    """Milliseconds of forward and backward with the gather fused and explicit."""
    return {
        name: _milliseconds(
            made, "forward and backward", device, start._replace(explicit_gather_from=least)
        )
        for name, least in (("fused", 2**30), ("explicit", 0))
    }


def _milliseconds(made: Problem, kind: fused.Kind, device: torch.device, tiles: Tuned) -> float:
    call = fused.one_pass(fused.ways(made)[fused.OURS], made, kind)
    with tuned_as(tiles):
        call()
        return 1e3 * statistics.median(fused.seconds_of(call, device) for _ in range(9))


def tune(device: torch.device, until: float) -> tuple[Tuned, dict[str, Any]]:
    """The best tiles for few and for many rows an expert, and what was measured for it."""
    best = tuned()
    told: dict[str, Any] = {}
    for least_rows, tokens in ((0, 4096), (400, 32768)):
        made = problem(SHAPES["qwen3-30b"], tokens, torch.bfloat16, device)
        found = best_tiles(made, best, device, until)
        for program, times in found.items():
            for tile in list(times)[:1]:
                best = with_tile(best, program, tile, least_rows)
        told[f"qwen3-30b, {tokens} tokens"] = {
            program: [{**tile._asdict(), "milliseconds": ms} for tile, ms in times.items()]
            for program, times in found.items()
        }
        del made
    for name in ("qwen3-30b", "olmoe", "deepseek", "mixtral"):
        if monotonic() < until:
            made = problem(SHAPES[name], 16384, torch.bfloat16, device)
            told[f"gather, {name}"] = gathers(made, best, device)
    return best, told


def main(argv: Sequence[str] | None = None) -> int:
    """Check, tune, measure; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m moe_core.bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--tuned", type=Path, help="where to write the best tiles")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--checks-only", action="store_true", help="for a memory checker")
    given = parser.parse_args(argv)
    device = torch.device("cuda")
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; run this on a machine that has one")
    began = monotonic()
    share = 1.0 if given.checks_only else CHECKED
    checks = list(checked(device, began + share * given.seconds))
    results: dict[str, Any] = {**fused.machine(device), "checks": checks}
    fused.write(results, given.out)
    wrong = [one for one in checks if not one["right"]]
    _LOG.info("%d of %d random layers are right", len(checks) - len(wrong), len(checks))
    if not given.checks_only:
        _tune_and_measure(results, given, device, began)
    return 1 if wrong else 0


def _tune_and_measure(
    results: dict[str, Any], given: argparse.Namespace, device: torch.device, began: float
) -> None:
    best, results["tuning"] = tune(device, began + (CHECKED + TUNED) * given.seconds)
    fused.write(results, given.out)
    if given.tuned:
        write_text(given.tuned, render(best))
    with tuned_as(best):
        for name, tokens in _MEASURED:
            if monotonic() > began + given.seconds:
                break
            measured = fused.run([name], [tokens], torch.bfloat16, device, rounds=7)
            results.setdefault("measured", []).append(measured)
            fused.write(results, given.out)
            _LOG.info("measured %s, %d tokens", name, tokens)


if __name__ == "__main__":
    run(main)
