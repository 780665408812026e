"""What the benchmark of the fused layer counts."""

from __future__ import annotations

import torch

from moe_core.bench.fused import SHAPES, Shape, flops, forward_bytes, one_pass, problem, ways

CPU = torch.device("cpu")


def test_operations_are_those_of_three_products_and_backward_has_twice_as_many() -> None:
    shape = Shape(width=5, inner=7, experts=4, top_k=2)
    rows = 3 * 2
    by_hand = 2 * rows * 5 * 14 + 2 * rows * 7 * 5
    assert flops(shape, 3, "inference") == by_hand
    assert flops(shape, 3, "forward and backward") == 3 * by_hand


def test_bytes_of_a_layer_whose_matrices_matter_most() -> None:
    """Mixtral at 4096 tokens: 2.8 GB of matrices, 1.3 ms at 3 TB/s with all the rest."""
    moved = forward_bytes(SHAPES["mixtral"], 4096, 2, saved=True)
    assert 3 * 8 * 4096 * 14336 * 2 < moved < 1.35e-3 * 3e12


def test_every_way_has_the_same_gradients() -> None:
    made = problem(SHAPES["tiny"], 20, torch.float32, CPU)
    found = ways(made)
    expected = one_pass(found["ours"], made, "forward and backward")()
    for way in found.values():
        torch.testing.assert_close(one_pass(way, made, "forward and backward")(), expected)
