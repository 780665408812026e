"""Skywork-MoE (Wei et al., arXiv:2406.06563)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.ffn import SwiGLU
from moe_core.routers.skywork import SkyworkRouter, mean_gate_loss, normalise_logits
from moe_core.routing import DROPPED
from moe_core.similarity import expert_similarity, mean_similarity
from moe_core.upcycle import upcycle


def logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@given(a=st.floats(0.01, 100), c=st.floats(-100, 100), scale=st.floats(0.1, 4))
@settings(deadline=None, max_examples=40)
def test_gates_are_invariant_to_scaling_and_shifting_all_logits(a, c, scale):
    z = logits(5, 16)
    torch.testing.assert_close(
        normalise_logits(a * z + c, scale), normalise_logits(z, scale), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("experts", [2, 16])
def test_the_norm_of_normalised_logits_is_scale_times_root_of_experts(scale, experts) -> None:
    norms = normalise_logits(logits(7, experts), scale).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, scale * math.sqrt(experts)))


@pytest.mark.parametrize(("scale", "bound"), [(0.5, 0.345), (1.0, 0.806), (2.0, 0.996)])
def test_the_highest_gate_of_sixteen_experts_is_bounded(scale: float, bound: float) -> None:
    extreme = torch.zeros(16, dtype=torch.float64)
    extreme[3] = 1e4
    formula = 1 / (1 + 15 * math.exp(-scale * 16 / math.sqrt(15)))
    reached = normalise_logits(extreme[None], scale).softmax(-1).max().item()
    assert reached == pytest.approx(formula, rel=1e-6)
    assert reached == pytest.approx(bound, abs=5e-4)
    others = normalise_logits(100 * logits(1000, 16), scale).softmax(-1)
    assert others.max() <= formula


def test_equal_logits_give_uniform_gates_and_finite_gradients() -> None:
    z = torch.full((3, 16), 7.0, requires_grad=True)
    gates = normalise_logits(z).softmax(-1)
    torch.testing.assert_close(gates, torch.full_like(gates, 1 / 16))
    gates[:, 0].sum().backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("experts", [2, 16])
def test_the_balance_loss_is_zero_iff_uniform_and_bounded_by_collapse(experts) -> None:
    one_each = torch.eye(experts, dtype=torch.float64)  # sharp, but uniform in the mean
    assert mean_gate_loss(one_each).item() == pytest.approx(0, abs=1e-12)
    collapsed = one_each[[0] * 5]
    assert mean_gate_loss(collapsed).item() == pytest.approx((experts - 1) / experts)
    between = mean_gate_loss(logits(9, experts).softmax(-1)).item()
    assert 0 < between < (experts - 1) / experts


def overloaded(**options) -> tuple[SkyworkRouter, Tensor]:
    """A router of four experts with tokens that all want the same two: half of the slots drop."""
    torch.manual_seed(0)
    router = SkyworkRouter(8, 4, capacity_factor=1.0, **options)
    return router, torch.randn(8).expand(16, 8)


def test_full_experts_drop_the_last_tokens() -> None:
    router, x = overloaded()
    routing = router(x)
    assert routing.drop_rate == 0.5
    assert routing.load_E.tolist().count(8) == 2
    assert (routing.experts_TK[:8] >= 0).all()
    assert (routing.experts_TK[8:] == DROPPED).all()
    assert (routing.weights_TK[8:] == 0).all()
    assert router.eval()(x).drop_rate == 0


def test_the_coefficient_follows_the_drop_rate_within_its_bounds() -> None:
    router, x = overloaded(drop_gain=0.2, max_coef=0.01)
    target = min(0.2 * 0.5, 0.01)
    expected = 0.0
    for _ in range(5):
        router(x)
        router.after_step()
        expected = 0.99 * expected + 0.01 * target
        assert router.coefficient.item() == pytest.approx(expected)
        assert 0 <= router.coefficient <= 0.01
    gentle, x = overloaded(drop_gain=0.002)
    gentle(x)
    gentle.after_step()
    assert gentle.coefficient.item() == pytest.approx(0.01 * 0.002 * 0.5)


def test_the_coefficient_halves_in_about_69_steps_without_drops() -> None:
    router = SkyworkRouter(8, 4)
    router.coefficient.fill_(0.01)
    for _ in range(69):
        router.after_step()
    assert router.coefficient.item() == pytest.approx(0.005, rel=1e-2)


def test_the_coefficient_is_per_layer_saved_and_multiplies_the_loss() -> None:
    router, x = overloaded()
    assert router(x).aux_loss == 0
    router.coefficient.fill_(0.004)
    routing = router(x)
    expected = 0.004 * mean_gate_loss(routing.probs_TE)
    torch.testing.assert_close(routing.aux_loss, expected)
    other = SkyworkRouter(8, 4)
    assert other.coefficient == 0
    other.load_state_dict(router.state_dict())
    assert other.coefficient == router.coefficient


def test_micro_batches_share_one_update() -> None:
    router, x = overloaded(drop_gain=0.01)
    router(x)
    router(torch.zeros(0, 8))
    router(x)
    router.after_step()
    assert router.coefficient.item() == pytest.approx(0.01 * 0.01 * 0.5)


def test_gates_of_the_two_highest_sum_to_one() -> None:
    router = SkyworkRouter(8, 4)
    routing = router(torch.randn(10, 8))
    torch.testing.assert_close(routing.weights_TK.sum(1), torch.ones(10))
    assert torch.equal(routing.experts_TK, routing.probs_TE.topk(2).indices)


def test_an_excluded_expert_is_left_out_of_the_normalisation() -> None:
    router = SkyworkRouter(8, 4)
    x = torch.randn(10, 8)
    with router.excluding({1}):
        routing = router(x)
    kept = (x @ router.weight.T)[:, [0, 2, 3]]
    torch.testing.assert_close(routing.probs_TE[:, [0, 2, 3]], normalise_logits(kept).softmax(-1))
    assert routing.load_E[1] == 0


def test_an_upcycled_layer_computes_what_the_dense_one_computes() -> None:
    dense, x = SwiGLU(8, 16), torch.randn(10, 8)
    torch.testing.assert_close(upcycle(dense, SkyworkRouter(8, 4))(x).hidden, dense(x))


def test_similarity_of_copies_is_one_and_a_tampered_copy_stands_out() -> None:
    experts = upcycle(SwiGLU(8, 16), SkyworkRouter(8, 4)).experts
    torch.testing.assert_close(expert_similarity(experts), torch.ones(4, 4))
    with torch.no_grad():
        experts.expert(2)["down_proj"].add_(0.01 * torch.randn(8, 16))
    similarity = expert_similarity(experts)
    assert mean_similarity(similarity).argmin() == 2
    torch.testing.assert_close(similarity[0, 1], torch.tensor(1.0))


def test_similarity_is_the_cosine_of_all_weights_of_two_experts() -> None:
    experts = SwiGLUExperts(4, 6, 3)
    first, third = (
        torch.cat([tensor.flatten() for tensor in experts.expert(index).values()])
        for index in (0, 2)
    )
    torch.testing.assert_close(
        expert_similarity(experts)[0, 2], F.cosine_similarity(first, third, dim=0)
    )
