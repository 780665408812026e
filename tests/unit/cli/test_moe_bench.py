"""``badexpert moe bench`` on a layer small enough for any CPU."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from badexpert_cli.main import app

PNG = b"\x89PNG\r\n"


def test_every_way_is_measured_and_computes_the_same(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    command = "moe bench tiny --tokens 40 --rounds 1 --device cpu --format json --plot"
    outcome = CliRunner().invoke(app, [*command.split(), str(plot)])
    assert outcome.exit_code == 0, outcome.output
    results = json.loads(outcome.stdout)
    (layer,) = results["layers"]
    ways = {row["way"] for row in layer["rows"]}
    assert {"ours", "ours, audited", "torch grouped_mm", "transformers eager"} <= ways
    assert {row["kind"] for row in layer["rows"]} == {
        "inference",
        "forward",
        "forward and backward",
    }
    assert len(layer["rows"]) == 3 * len(ways)
    for row in layer["rows"]:
        assert row["relative_difference"] < 1e-5
        assert row["tflops"] > 0
        assert row["of_ceiling"] * results["ceiling_tflops"] * 1e12 > 0
    assert plot.read_bytes().startswith(PNG)


def test_a_shape_that_is_unknown_is_named_with_those_that_are_known() -> None:
    outcome = CliRunner().invoke(app, ["moe", "bench", "gpt-17", "--device", "cpu"])
    assert "shape 'gpt-17' is unknown; known are olmoe" in str(outcome.exception)
