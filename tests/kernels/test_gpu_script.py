"""What the script for a GPU calls right, on the CPU."""

from __future__ import annotations

import pytest
import torch

from moe_core.bench import gpu
from moe_core.bench.fused import Shape, problem
from moe_core.kernels.gpu import products
from moe_core.kernels.gpu.tuned import Tile, tuned

SHAPE = Shape(width=8, inner=8, experts=3, top_k=2)
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_layer_is_right_and_twice_the_same(dtype: torch.dtype) -> None:
    told = gpu.check(problem(SHAPE, 5, dtype, CPU), SHAPE)
    assert told["right"]
    assert set(told["errors"]) == {"out", "x", "gate_up", "down", "weights"}


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = products.weight_gradient
    monkeypatch.setattr(
        products, "weight_gradient", lambda *given, **options: 1.1 * honest(*given, **options)
    )
    told = gpu.check(problem(SHAPE, 5, torch.float32, CPU), SHAPE)
    assert not told["right"]
    assert told["errors"]["down"] == pytest.approx(0.1, rel=1e-3)
    assert told["errors"]["x"] < 1e-5


def test_a_better_tile_comes_before_those_for_fewer_rows() -> None:
    tile = Tile(128, 64, 32, 8, 8, 3)
    few = gpu.with_tile(tuned(), "up", tile)
    many = gpu.with_tile(few, "up", tile._replace(rows=256), least_rows=400)
    assert many.tile("up", 2, 400, 64).rows == 256
    assert many.tile("up", 2, 399, 64).rows == 128
    assert many.tile("up", 4, 400, 64) == tuned().tile("up", 4, 400, 64)
