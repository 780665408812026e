"""The fused operation in plain torch, and the choice of what computes it."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from moe_core.kernels import Backend, Constants, backends, fused, fused_experts
from moe_core.kernels.told import Inputs
from tests.kernels.problems import EXPERTS, ROUTINGS, Problem, assert_same, problem
from tests.moe_layers import layer, token_by_token, tokens

SMALL = torch.tensor([[0, 2], [3, -1], [2, 0]])


@pytest.mark.parametrize("backend", ["reference", "grouped_mm"])
def test_it_is_the_layer_token_by_token(backend: Backend) -> None:
    made, x_TD = layer(), tokens()
    routing = made.router(x_TD)
    state = made.experts.state_dict()
    out = fused_experts(
        x_TD,
        state["gate_up_proj"],
        state["down_proj"],
        routing.experts_TK,
        routing.weights_TK,
        backend=backend,
    ).out_TD
    torch.testing.assert_close(out, token_by_token(made, x_TD, routing))


@pytest.mark.parametrize("name", ROUTINGS)
def test_grouped_products_agree_with_the_loop(name: str) -> None:
    made = problem(ROUTINGS[name])
    constants = Constants(torch.arange(EXPERTS) == 2, torch.ones(EXPERTS, 24))
    for given in (None, constants):
        options = {"constants": given, "audit": True, "direction_D": torch.arange(24.0)}
        assert_same(
            made.run("grouped_mm", **options), made.run("reference", **options), torch.float32
        )
        assert_same(
            made.gradients("grouped_mm", **options),
            made.gradients("reference", **options),
            torch.float32,
        )


def test_gradcheck_of_the_loop_in_fp64() -> None:
    made = problem(SMALL, width=3, inner=2).to(torch.float64)

    def run(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor) -> Tensor:
        given = (x, gate_up, down, made.experts, weights)
        return fused_experts(*given, backend="reference").out_TD

    assert torch.autograd.gradcheck(run, made.learned)


def test_audit_outputs_by_hand() -> None:
    made = problem(SMALL)
    direction = torch.arange(24.0)
    seen = made.run("reference", audit=True, direction_D=direction)
    alone = made._replace(experts=torch.tensor([[0, -1], [3, -1], [2, -1]]))
    first = alone.run("reference").out_TD
    assert seen.contribution_TK is not None
    assert seen.alignment_TK is not None
    assert seen.projection_TK is not None
    torch.testing.assert_close(seen.contribution_TK[:, 0], first.norm(dim=1))
    torch.testing.assert_close(seen.alignment_TK[:, 0], (first * seen.out_TD).sum(1))
    torch.testing.assert_close(seen.projection_TK[:, 0] * made.weights[:, 0], first @ direction)


def test_a_weight_of_an_empty_slot_adds_nothing_even_if_it_is_nan() -> None:
    made = problem(SMALL)
    with torch.no_grad():
        made.weights[1, 1] = float("nan")
    for backend in ("reference", "grouped_mm"):
        assert made.run(backend).out_TD.isfinite().all()


def test_on_the_cpu_grouped_products_are_chosen_and_triton_says_why_not() -> None:
    made = problem(SMALL)
    inputs = Inputs(made.x, made.gate_up, made.down, made.experts, made.weights, None, None, False)
    assert fused.choose_backend(inputs) == "grouped_mm"
    with pytest.raises(ValueError, match="they need a CUDA device, and the values are on cpu"):
        made.run("triton")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x_TD": torch.empty(3, 24, dtype=torch.float64)}, "and this is torch.float64"),
        (
            {"gate_up_proj": torch.empty(1025, 40, 24)},
            "take up to 1024 experts, and there are 1025",
        ),
        (
            {"experts_TK": torch.empty(2**16, 2**15, device="meta")},
            "slots, and there are 2147483648",
        ),
    ],
)
def test_what_triton_cannot_compute(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Tensor], reason: str
) -> None:
    monkeypatch.setattr(backends, "interpreted", lambda: True)
    made: Problem = problem(SMALL)
    inputs = Inputs(made.x, made.gate_up, made.down, made.experts, made.weights, None, None, False)
    assert fused._triton_refuses(inputs) is None
    assert reason in str(fused._triton_refuses(inputs._replace(**change)))


def test_why_not_triton_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    backends._say_once.cache_clear()
    for _ in range(2):
        backends._say_once("there is none")
    assert [record.getMessage() for record in caplog.records] == [
        "experts run without the Triton programs: there is none"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_shapes_that_do_not_belong_together_are_named() -> None:
    made = problem(SMALL)
    with pytest.raises(ValueError, match=r"down_proj \(5, 24, 19\) torch.float32"):
        made._replace(down=made.down[..., :19]).run("reference")
