"""The Triton layer where it belongs."""

from __future__ import annotations

import pytest
import torch

from moe_core.bench.fused import Problem, Shape, problem
from moe_core.kernels import fused_experts

pytestmark = pytest.mark.gpu
SHAPE = Shape(width=256, inner=192, experts=12, top_k=3)


def made(dtype: torch.dtype) -> Problem:
    return problem(SHAPE, 300, dtype, torch.device("cuda"))


def out_of(given: Problem) -> torch.Tensor:
    x, gate_up, down, experts, weights, _ = given
    return fused_experts(x, gate_up, down, experts, weights, backend="triton").out_TD


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_is_right_and_twice_the_same(dtype: torch.dtype) -> None:
    from moe_core.bench.gpu import check

    assert check(made(dtype), SHAPE)["right"]


def test_a_captured_graph_computes_the_same_for_other_tokens() -> None:
    given = made(torch.bfloat16)
    with torch.no_grad():
        out_of(given)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = out_of(given)
        given.x.copy_(torch.randn_like(given.x))
        given.experts.copy_(given.experts.flip(0))
        graph.replay()
        assert torch.equal(captured, out_of(given))


def test_a_compiled_layer_is_the_same() -> None:
    given = made(torch.bfloat16)
    compiled = torch.compile(out_of, fullgraph=True)(given)
    assert torch.equal(compiled, out_of(given))
