"""What must hold whatever the numbers: the order of tokens and experts, linearity in the gate."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.problems import EXPERTS, Problem, assert_same, problem

# The interpreter needs a second for a layer.
few = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def layers(draw: st.DrawFn) -> Problem:
    tokens, slots = draw(st.integers(1, 12)), draw(st.integers(1, EXPERTS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    experts = torch.rand(tokens, EXPERTS, generator=generator).argsort(1)[:, :slots]
    return problem(experts, width=draw(st.integers(1, 20)), inner=draw(st.integers(1, 20)))


def shuffled(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(count))


@few
@given(layers())
def test_tokens_in_another_order_get_the_same_answers(made: Problem) -> None:
    order = shuffled(len(made.x))
    other = made._replace(x=made.x[order], weights=made.weights[order], experts=made.experts[order])
    assert torch.equal(other.run("triton").out_TD, made.run("triton").out_TD[order])


@few
@given(layers())
def test_experts_under_other_numbers_give_the_same_answers(made: Problem) -> None:
    order = shuffled(EXPERTS)
    other = made._replace(
        gate_up=made.gate_up[order], down=made.down[order], experts=order.argsort()[made.experts]
    )
    assert torch.equal(other.run("triton").out_TD, made.run("triton").out_TD)


@few
@given(layers())
def test_the_output_is_linear_in_the_gate_weights(made: Problem) -> None:
    def out(weights: Tensor) -> Tensor:
        return made._replace(weights=weights).run("triton").out_TD

    one = made.weights.detach()
    two = one.flip(0) + 1
    assert_same(out(2 * one - 3 * two), 2 * out(one) - 3 * out(two), torch.float32)
