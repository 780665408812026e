from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moe_core.bench import balance, compressed, gating, mpoe
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK
from tests.small_decoders import LICENSE

SMALL = "--dim 16 --inner-dim 8 --layers 1 --experts 4 --steps 3 --batch-size 2 --length 16".split()


@pytest.mark.parametrize(("bench", "key"), [(balance, "balance"), (gating, "gating")])
def test_all_variants_are_written_and_shown(
    bench, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out.json"
    bench.main(["--out", str(out), "--text", str(LICENSE), *SMALL])
    document = json.loads(out.read_text(encoding="utf-8"))
    assert list(document[key]) == list(bench.VARIANTS)
    assert document["settings"]["text"] == "LICENSE"
    shown = capsys.readouterr().out
    assert all(f"{row['loss']:.4f}" in shown for row in document[key].values())


def test_what_stand_ins_recover_is_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    compressed.main(["--out", str(out), "--text", str(LICENSE), "--tuning-steps", "2", *SMALL])
    document = json.loads(out.read_text(encoding="utf-8"))
    losses = document["losses"]
    lost = losses[compressed.ALONE] - losses[compressed.ALL]
    for tuned, share in document["recovered"].items():
        assert share == pytest.approx((losses[compressed.ALONE] - losses[tuned]) / lost)
    shown = capsys.readouterr().out
    assert all(f"{loss:.4f}" in shown for loss in losses.values())


def test_the_control_of_stand_ins_scales_by_numbers_of_the_main_expert() -> None:
    torch.manual_seed(0)
    layer = MoELayer(SoftmaxTopK(8, 4), SwiGLUExperts(8, 6, 4))
    x = torch.randn(20, 8)
    main_T = layer.router(x).experts_TK[:, 0]
    layer.experts = compressed.ScaledExperts.of(layer.experts, main_slots=1)
    before = layer(x).hidden
    with torch.no_grad():
        layer.experts.theta_inner[2] = 0
    changed = (layer(x).hidden != before).any(1)
    assert torch.equal(changed, main_T == 2)


def test_every_conversion_is_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mpoe.json"
    mpoe.main(["--out", str(out), "--text", str(LICENSE), "--tuning-steps", "2", *SMALL])
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["decomposition"]["null"]["error"] < 1e-5
    for rows in document["conversion"].values():
        plain, *chains, mean = rows.values()
        assert (plain["size"], plain["error"]) == (1, 0)
        assert mean["size"] == 1 / 4
        assert chains[0]["error"] < chains[-1]["error"]
    # Copies have everything in common: chains hold them, and so does their mean.
    assert document["similarity"]["upcycled"] > 0.99 > document["similarity"]["from scratch"]
    shown = capsys.readouterr().out
    assert f"{plain['tuned_loss']:.4f}" in shown
