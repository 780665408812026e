from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from moe_core.bench import oracle
from moe_core.bench.oracle import DRAWN, LABELS, REAL, SHUFFLED
from moe_core.lm import FeedForward
from moe_core.training import TrainingConfig
from moe_core.training.trainer import validate
from tests.small_decoders import LICENSE, config, decoder, licence

SMALL = (
    "--dim 16 --inner-dim 32 --layers 3 --steps 3 --router-steps 2 --batch-size 2 --length 16"
).split()
PLAN = TrainingConfig(batch_size=4, length=32, validation_batches=3)


def measured(std: float):
    ffn = FeedForward("random", "duo", num_experts=2, inner_dim=32)
    model = decoder(config(ffn, vocab_size=256), std=std)
    return model, oracle.oracles(model, list(licence().validation(PLAN)), seed=0)


def test_real_labels_are_the_text_and_shuffled_ones_the_same_in_another_order() -> None:
    model, by_label = measured(std=0.3)
    all_big = [oracle.summary(by_label[kind], 1)["all big"] for kind in LABELS]
    assert all_big[0] == pytest.approx(validate(model, licence(), PLAN, 0).loss, rel=1e-4)
    assert len(set(all_big)) == 3


def test_labels_that_say_nothing_of_the_text_cost_the_same_in_any_order() -> None:
    _, by_label = measured(std=0.0)
    for kind in LABELS:
        assert oracle.summary(by_label[kind], 1)["oracle"] == pytest.approx(math.log(256), rel=1e-4)
        assert by_label[kind].gain == pytest.approx(0, abs=1e-5)


def test_no_route_predicts_drawn_labels_better_than_the_model_they_come_from() -> None:
    _, by_label = measured(std=0.3)
    drawn = by_label[DRAWN]
    all_big = oracle.summary(drawn, 1)["all big"]
    assert all_big == pytest.approx(drawn.best_fixed)
    assert drawn.loss < all_big, "the least of many still looks better"


def test_the_oracle_stands_beside_its_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "oracle.json"
    oracle.main(["--out", str(out), "--text", str(LICENSE), *SMALL])
    [run] = json.loads(out.read_text(encoding="utf-8"))["runs"]
    for kind in LABELS:
        losses = run[kind]
        assert losses["oracle of all routes"] <= losses["oracle"] <= losses["best route"]
    gains = {kind: run[kind]["best route"] - run[kind]["oracle"] for kind in LABELS}
    for kind in (SHUFFLED, DRAWN):
        assert run["gain over null"][kind] == pytest.approx(gains[REAL] - gains[kind], abs=1e-6)
    assert 0 <= run["router"]["big per token"] <= 3
    shown = capsys.readouterr().out
    assert f"{run['router']['loss']:.4f}" in shown
    assert all(f"{loss:.4f}" in shown for loss in run[REAL].values())


def test_routes_of_one_kind_of_module_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        oracle.main(["--out", str(tmp_path / "o"), "--text", str(LICENSE), *SMALL, "--big", "3"])
    assert "--big 3 of --layers 3" in capsys.readouterr().err
