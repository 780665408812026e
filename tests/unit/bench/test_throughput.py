from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from badexpert.bench.memory import measure_memory
from badexpert.bench.throughput import TAIL_SHARES, main, measure_throughput
from badexpert.bench.untuned import noise, untrained_suspect, untuned_bundle
from badexpert.errors import AuditError
from badexpert.extraction.comparison import SUSPECT
from badexpert.models.vision import VisionSuspect

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def suspect() -> VisionSuspect:
    return untrained_suspect(None, 16, CPU)


def test_untuned_copies_agree_with_the_suspect(suspect: VisionSuspect) -> None:
    pixels = noise(4, suspect)
    bundle = untuned_bundle(suspect, 0.15)
    views = bundle.view(pixels)
    torch.testing.assert_close(views.answers, suspect.predict(pixels))
    for part in bundle.parts:
        torch.testing.assert_close(views.log_odds[part], views.log_odds[SUSPECT])
    assert views.distances is not None


def test_copies_of_a_whole_network_cost_more_than_of_a_twentieth(
    suspect: VisionSuspect,
) -> None:
    pixels = noise(64, suspect)
    costs = [
        measure_throughput(
            suspect, untuned_bundle(suspect, share), pixels, batch_size=32, repeats=3
        )
        for share in (1.0, 0.05)
    ]
    assert costs[0].cut_share > 0.9 > 0.05 >= costs[1].cut_share
    assert costs[0].ratio > 1.5 * costs[1].ratio
    assert costs[0].lowest <= costs[0].ratio <= costs[0].highest


def test_the_table_and_the_document_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "throughput.json"
    main(["--out", str(out), "--size", "8", "--images", "8", "--repeats", "1", "--memory"])
    document = json.loads(out.read_text(encoding="utf-8"))
    assert [row["tail_share"] for row in document["throughput"]] == [*TAIL_SHARES, None]
    assert document["memory"] == []
    table = capsys.readouterr().out
    assert all(f"{row['ratio']:.2f}" in table for row in document["throughput"])


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    [peak] = measure_memory([130])
    assert peak.input_bytes == 130 * 32 * 32 * 3
    assert 50e6 < peak.peak_bytes < 4e9


def test_a_failing_command_is_no_measurement() -> None:
    with pytest.raises(AuditError, match="detect failed on 0 images"):
        measure_memory([0])
