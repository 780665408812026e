from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moe_core.bench import hooks
from moe_core.bench.timing import Median, Ratio, in_turns


def test_each_round_runs_all_and_the_first_does_not_count() -> None:
    ran: list[str] = []

    def call(name: str, seconds: float) -> float:
        ran.append(name)
        return seconds

    seconds = in_turns({"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}, 2)
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_ratios_are_taken_within_rounds() -> None:
    assert Ratio.of([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == Ratio(3.0, 2.0, 4.0)


def test_the_interval_of_a_median_is_that_of_the_sign_test() -> None:
    # Of ten values, at most one lies below the true median in 11 of 1024 cases, two in 56.
    assert Median.of([float(value) for value in range(10, 0, -1)]) == Median(5.5, 2.0, 9.0)
    assert Median.of([3.0, 1.0, 2.0]) == Median(2.0, 1.0, 3.0)


def test_the_interval_misses_the_true_median_in_less_than_one_of_twenty_cases() -> None:
    draws = torch.randn(400, 41, generator=torch.Generator().manual_seed(0)).exp()
    intervals = [Median.of(row.tolist()) for row in draws]
    missed = sum(not one.low <= 1.0 <= one.high for one in intervals)
    assert 0 < missed < 0.05 * 400


def test_the_cost_of_hooks_is_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "hooks.json"
    small = "--tokens 8 --dim 8 --inner-dim 8 --experts 4 --rounds 2".split()
    hooks.main(["--out", str(out), *small])
    document = json.loads(out.read_text(encoding="utf-8"))
    rows = document["hooks"]
    assert list(rows) == ["bare again", "off", "recording"]
    for row in rows.values():
        for one in row.values():
            assert one["low"] <= one["median"] <= one["high"]
    assert document["settings"]["tokens"] == 8
    assert f"{rows['recording']['times_bare']['median']:.4f}" in capsys.readouterr().out
