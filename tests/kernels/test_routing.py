"""The Triton router against plain torch: choice, ties, gradients, what an audit changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moe_core.kernels.routed import Routed, route_top_k

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "softmax": (6, 2, {}),
    "softmax, not normalised": (9, 3, {"normalised": False}),
    "sigmoid": (8, 3, {"scoring": "sigmoid"}),
    "sigmoid with a bias": (7, 2, {"scoring": "sigmoid", "bias_E": torch.arange(7) * 0.1}),
    "softmax with a bias": (5, 2, {"bias_E": torch.tensor([0.0, 0.5, 0.0, 0.5, -1.0])}),
    "one slot": (6, 1, {}),
    "all experts": (5, 5, {}),
    "experts to route around": (6, 2, {"excluded_E": torch.arange(6) % 2 == 0}),
    "more slots than experts left": (6, 3, {"excluded_E": torch.arange(6) > 1}),
    "slots that are overridden": (
        6,
        2,
        {"override_TK": torch.tensor([[-1, 4], [0, -1]] * 10)[:19]},
    ),
}


def logits(tokens: int, experts: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(experts))
    return made.to(dtype).requires_grad_()


def gradient(routed: Routed, of: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    weights, probs = routed.weights_TK, routed.probs_TE
    loss = (weights * torch.randn(weights.shape, generator=generator)).sum()
    loss = loss + (probs * torch.randn(probs.shape, generator=generator)).sum()
    (grad,) = torch.autograd.grad(loss, of)
    return grad


@pytest.mark.parametrize("name", CASES)
def test_choice_weights_load_and_gradient(name: str) -> None:
    experts, top_k, options = CASES[name]
    given = logits(19, experts)
    got = route_top_k(given, top_k, backend="triton", **options)
    expected = route_top_k(given, top_k, backend="reference", **options)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient(got, given), gradient(expected, given))


def test_logits_in_half_precision_are_routed_in_fp32() -> None:
    given = logits(19, 6, torch.float16)
    got, expected = (route_top_k(given, 2, backend=name) for name in ("triton", "reference"))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient(got, given), gradient(expected, given))


def test_ties_go_to_the_lowest_index() -> None:
    given = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0], [0.0, -0.0, 0.0, -0.0, 0.0]])
    assert route_top_k(given, 3, backend="triton").experts_TK.tolist() == [[1, 2, 4], [0, 1, 2]]


def test_the_highest_are_found_where_probabilities_saturate() -> None:
    given = torch.tensor([[40.0, 60.0, 50.0, -1e30]])
    routed = route_top_k(given, 3, scoring="sigmoid", backend="triton")
    assert routed.experts_TK.tolist() == [[1, 2, 0]]
    assert route_top_k(-given, 1, backend="triton").experts_TK.tolist() == [[3]]


def test_a_token_that_may_go_nowhere_goes_nowhere() -> None:
    given = torch.full((2, 3), -torch.inf)
    routed = route_top_k(given, 2, backend="triton")
    assert (routed.experts_TK == -1).all()
    assert (routed.weights_TK == 0).all()
    assert routed.load_E.sum() == 0


def test_the_operator_keeps_what_it_promises_to_torch() -> None:
    from moe_core.kernels.gpu.routing import route

    bias, excluded = torch.zeros(4), torch.tensor([False, True, False, False])
    override = torch.tensor([[-1, 0], [2, -1]])
    arguments = (logits(2, 4), 2, True, True, bias, excluded, override)
    torch.library.opcheck(route, arguments)
