from __future__ import annotations

import json
from pathlib import Path

import pytest

from badexpert.bench.parity import Detection, Extraction, Parity, main


@pytest.mark.slow
def test_the_cpu_says_what_the_cpu_says(tmp_path: Path) -> None:
    out = tmp_path / "parity.json"
    assert main(["--device", "cpu", "--out", str(out)]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["equal"]
    assert document["detection"] == {
        "score_difference": 0.0,
        "answers_differ": 0.0,
        "flags_differ": 0.0,
    }
    assert document["on_cpu"] == document["on_device"]
    assert document["on_cpu"]["auroc"] > 0.95


@pytest.mark.gpu
def test_cuda_says_what_the_cpu_says(tmp_path: Path) -> None:
    assert main(["--device", "cuda", "--out", str(tmp_path / "parity.json")]) == 0


@pytest.mark.parametrize(
    ("detection", "auroc"),
    [
        (Detection(0.2, 0.0, 0.0), 0.99),
        (Detection(0.0, 0.1, 0.0), 0.99),
        (Detection(0.0, 0.0, 0.1), 0.99),
        (Detection(0.0, 0.0, 0.0), 0.9),
        (Detection(0.0, 0.0, 0.0), None),
        (Detection(float("nan"), 0.0, 0.0), 0.99),
    ],
)
def test_a_device_that_differs_is_noticed(detection: Detection, auroc: float | None) -> None:
    assert not Parity(detection, Extraction(0.99, {}), Extraction(auroc, {})).equal
