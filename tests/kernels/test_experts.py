"""The Triton layer against the plain loop: outputs, every gradient, audit outputs, ablations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_core.kernels import Constants, fused_experts
from tests.kernels.problems import EXPERTS, ROUTINGS, Problem, assert_same, problem

DTYPES = [torch.float32, torch.float16]


def assert_agrees(made: Problem, dtype: torch.dtype, **options: object) -> None:
    low = made.to(dtype)
    wide = low.to(torch.float32)
    assert_same(low.run("triton", **options), wide.run("reference", **options), dtype)
    assert_same(low.gradients("triton", **options), wide.gradients("reference", **options), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROUTINGS)
def test_outputs_and_gradients_for_every_routing(name: str, dtype: torch.dtype) -> None:
    assert_agrees(problem(ROUTINGS[name]), dtype)


@pytest.mark.usefixtures("explicit_gather")
@pytest.mark.parametrize("name", ["experts 1 and 3 are idle", "slots that run nothing"])
def test_the_gather_of_wide_experts(name: str) -> None:
    assert_agrees(problem(ROUTINGS[name]), torch.float32)


@pytest.mark.parametrize(("width", "inner"), [(16, 32), (17, 9), (40, 3), (1, 1)])
def test_widths_of_any_size(width: int, inner: int) -> None:
    assert_agrees(problem(ROUTINGS["even"][:5], width=width, inner=inner), torch.float32)


@pytest.mark.usefixtures("explicit_gather")
def test_the_gather_of_wide_experts_whose_rows_are_not_aligned() -> None:
    assert_agrees(problem(ROUTINGS["even"][:5], width=17, inner=9), torch.float16)


def test_inputs_whose_strides_are_odd() -> None:
    plain = problem(ROUTINGS["even"][:6])
    strided = plain._replace(
        x=plain.x.detach().T.contiguous().T.requires_grad_(),
        gate_up=plain.gate_up.detach()
        .transpose(1, 2)
        .contiguous()
        .transpose(1, 2)
        .requires_grad_(),
        down=torch.cat([plain.down.detach()] * 2, 1)[:, : plain.x.shape[1]].requires_grad_(),
        weights=plain.weights.detach().T.contiguous().T.requires_grad_(),
        experts=plain.experts.T.contiguous().T,
        grad=plain.grad[:, :1].expand_as(plain.grad),
    )
    assert not any(part.is_contiguous() for part in strided[:4])
    plain = plain._replace(grad=strided.grad.contiguous())
    assert_same(strided.run("triton"), plain.run("reference"), torch.float32)
    assert_same(strided.gradients("triton"), plain.gradients("reference"), torch.float32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_expert_spoils_only_its_own_tokens(bad: float) -> None:
    made = problem(ROUTINGS["even"])
    with torch.no_grad():
        made.gate_up[2], made.down[2] = bad, bad
    mine = (made.experts == 2).any(1)
    out = made.run("triton").out_TD
    assert_same(out[~mine], made.run("reference").out_TD[~mine], torch.float32)
    assert not out[mine].isfinite().any()
    grad_x, grad_up, grad_down, _ = made.gradients("triton")
    others = [0, 1, 3, 4]
    assert grad_x[~mine].isfinite().all()
    assert grad_up[others].isfinite().all()
    assert grad_down[others].isfinite().all()


def test_a_broken_token_spoils_only_itself_and_its_experts() -> None:
    made = problem(ROUTINGS["even"])
    with torch.no_grad():
        made.x[5] = float("inf")
    others = torch.arange(13) != 5
    assert_same(
        made.run("triton").out_TD[others], made.run("reference").out_TD[others], torch.float32
    )
    grad_x, grad_up, _, _ = made.gradients("triton")
    idle = [expert for expert in range(EXPERTS) if expert not in made.experts[5]]
    assert grad_x[others].isfinite().all()
    assert grad_up[idle].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_an_audit_asks_for(dtype: torch.dtype) -> None:
    made = problem(ROUTINGS["slots that run nothing"])
    direction = torch.randn(24, generator=torch.Generator().manual_seed(0))
    assert_agrees(made, dtype, audit=True, direction_D=direction)
    seen = made.to(dtype).run("triton", audit=True, direction_D=direction)
    assert seen.alignment_TK is not None
    assert seen.contribution_TK is not None
    assert not seen.contribution_TK.requires_grad
    assert_same(seen.alignment_TK.sum(1), seen.out_TD.float().square().sum(1), dtype)
    assert (seen.contribution_TK[made.experts < 0] == 0).all()


def test_experts_that_answer_with_their_mean() -> None:
    chosen = torch.tensor([False, True, False, True, False])
    answers = torch.randn(EXPERTS, 24, generator=torch.Generator().manual_seed(0))
    constants = Constants(chosen, answers)
    for name in ("even", "slots that run nothing"):
        assert_agrees(problem(ROUTINGS[name]), torch.float32, constants=constants, audit=True)


def test_attribution_is_what_the_output_loses_without_the_expert() -> None:
    """The output is linear in each expert's answer, so taking one away costs exactly w * dS."""
    made = problem(ROUTINGS["even"][:4])
    *_, grad_weights = made.gradients("triton")
    lost = (
        made.run("triton").out_TD
        - made._replace(experts=made.experts.index_fill(1, torch.tensor([0]), -1))
        .run("triton")
        .out_TD
    )
    attribution = (made.weights * grad_weights)[:, 0]
    assert_same(attribution, (lost * made.grad).sum(1), torch.float32)


def test_gradients_come_only_where_they_are_asked_for() -> None:
    full = problem(ROUTINGS["even"][:5])
    expected = full.gradients("reference")
    for index in range(4):
        parts = [
            part.detach().requires_grad_(place == index) for place, part in enumerate(full.learned)
        ]
        x, gate_up, down, weights = parts
        out = fused_experts(x, gate_up, down, full.experts, weights, backend="triton").out_TD
        (got,) = torch.autograd.grad(out, parts[index], full.grad)
        assert_same(got, expected[index], torch.float32)


def test_two_runs_are_bit_identical() -> None:
    made = problem(ROUTINGS["even"]).to(torch.float16)
    assert torch.equal(made.run("triton").out_TD, made.run("triton").out_TD)
    for one, other in zip(made.gradients("triton"), made.gradients("triton"), strict=True):
        assert torch.equal(one, other)


def test_the_operators_keep_what_they_promise_to_torch() -> None:
    from moe_core.kernels.gpu import ops

    # No slot of theirs goes to expert 4: rows that nobody fills would differ from run to run.
    made = problem(ROUTINGS["even"][:2], width=8, inner=4)
    x, gate_up, down, weights = made.learned
    chosen = torch.tensor([False, False, False, False, True])
    answers, direction = torch.ones(EXPERTS, 8), torch.ones(8)
    arguments = (x, gate_up, down, made.experts, weights, chosen, answers, direction, True, True)
    torch.library.opcheck(ops._experts, arguments)
    frozen = [part.detach() for part in made.learned]
    bare = (*frozen[:3], made.experts, frozen[3], None, None, None, False, False)
    torch.library.opcheck(ops._experts, bare)
    saved = ops._experts(*arguments)[4:]
    backward = (made.grad, *(part.detach() for part in made.learned[:3]), made.experts, frozen[3])
    needs = (True, True, False, True)
    torch.library.opcheck(ops._experts_backward, (*backward, chosen, answers, *saved, *needs))


def test_a_graph_of_the_layer_holds_it_as_one_operator() -> None:
    made = problem(ROUTINGS["even"][:4], width=8, inner=4)
    operators: list[str] = []

    def look(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        operators.extend(
            str(node.target) for node in graph.graph.nodes if node.op == "call_function"
        )
        return graph

    def run(x: Tensor) -> Tensor:
        return fused_experts(
            x, *made.learned[1:3], made.experts, made.weights, backend="triton"
        ).out_TD

    compiled = torch.compile(run, backend=look, fullgraph=True)
    assert_same(compiled(made.x), run(made.x), torch.float32)
    assert sum("moe_core.experts" in name for name in operators) == 1
