"""What every router and every kind of experts promises, and that all pairs work together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_core.dispatch import plan
from moe_core.experts import EXPERTS, Experts
from moe_core.experts.lora import LoraLinearExperts
from moe_core.layer import MoELayer
from moe_core.lm.feedforward import ROUTERS_OF_LM as ROUTERS
from moe_core.routers import LinearRouter, Router
from moe_core.routing import DROPPED, Routing

DIM, INNER, NUM, TOKENS = 8, 12, 4, 32
IDS_T = torch.arange(TOKENS) % 11
LINEAR = sorted(name for name, kind in ROUTERS.items() if issubclass(kind, LinearRouter))
CAPACITY = {"switch", "gshard"}
"""Routers under which a token's place in the batch decides whether it is dropped."""


@pytest.fixture(params=sorted(ROUTERS))
def router(request: pytest.FixtureRequest) -> Router:
    torch.manual_seed(0)
    made = ROUTERS[request.param](DIM, NUM)
    if isinstance(made, LinearRouter):
        torch.nn.init.normal_(made.weight)
    return made


@pytest.fixture(params=[*sorted(EXPERTS), "lora of one map"])
def experts(request: pytest.FixtureRequest) -> Experts:
    torch.manual_seed(0)
    made = (
        EXPERTS[request.param](DIM, INNER, NUM)
        if request.param in EXPERTS
        else LoraLinearExperts(DIM, DIM, NUM)
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


@pytest.fixture
def x_TD() -> Tensor:
    return torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(1))


def dense_gates(routing: Routing) -> Tensor:
    """Gate weight of every expert for every token, (tokens, experts)."""
    gates = torch.zeros(routing.probs_TE.shape, dtype=routing.weights_TK.dtype)
    return gates.scatter_add(1, routing.experts_TK.clamp(min=0), routing.weights_TK)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_routing_has_the_promised_shapes_and_types(
    router: Router, x_TD: Tensor, training: bool, dtype: torch.dtype
) -> None:
    weights_TK, experts_TK, probs_TE, aux_loss = router.train(training).to(dtype)(
        x_TD.to(dtype), IDS_T
    )
    assert weights_TK.shape == experts_TK.shape
    assert len(experts_TK) == TOKENS
    assert probs_TE.shape == (TOKENS, NUM)
    assert aux_loss.shape == ()
    assert {weights_TK.dtype, probs_TE.dtype, aux_loss.dtype} == {torch.float32}
    assert experts_TK.dtype == torch.int64
    assert all(part.isfinite().all() for part in (weights_TK, probs_TE, aux_loss))
    assert probs_TE.min() >= 0


@pytest.mark.parametrize("training", [True, False])
def test_slots_hold_different_experts_or_a_mark_with_weight_zero(
    router: Router, x_TD: Tensor, training: bool
) -> None:
    routing = router.train(training)(x_TD, IDS_T)
    assert routing.experts_TK.min() >= DROPPED
    assert routing.experts_TK.max() < NUM
    assert not routing.weights_TK[routing.experts_TK < 0].any()
    for row in routing.experts_TK.tolist():
        filled = [expert for expert in row if expert >= 0]
        assert len(set(filled)) == len(filled)


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_tokens_has_an_empty_routing_and_a_finite_loss(
    router: Router, x_TD: Tensor, training: bool
) -> None:
    routing = router.train(training)(x_TD[:0], IDS_T[:0])
    router.after_step()
    assert len(routing.experts_TK) == 0
    assert routing.aux_loss.isfinite()
    assert all(tensor.isfinite().all() for tensor in router.state_dict().values())


def test_evaluation_draws_nothing(router: Router, x_TD: Tensor) -> None:
    router.eval()
    first, second = router(x_TD, IDS_T), router(x_TD, IDS_T)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("cut", [{0}, {1, 3}, {0, 1, 2}])
def test_excluded_experts_are_not_chosen_and_the_others_are(
    router: Router, x_TD: Tensor, cut: set[int]
) -> None:
    router.eval()
    whole = router(x_TD, IDS_T)
    with router.excluding(cut):
        routing = router(x_TD, IDS_T)
    assert routing.load_E[sorted(cut)].sum() == 0
    assert routing.load_E.sum() > 0
    assert all(part.isfinite().all() for part in (routing.weights_TK, routing.aux_loss))
    assert torch.equal(router(x_TD, IDS_T).experts_TK, whole.experts_TK)


@pytest.mark.parametrize("name", LINEAR)
def test_renamed_experts_get_the_same_tokens(name: str, x_TD: Tensor) -> None:
    torch.manual_seed(0)
    router = ROUTERS[name](DIM, NUM).eval()
    assert isinstance(router, LinearRouter)
    torch.nn.init.normal_(router.weight)
    before = dense_gates(router(x_TD))
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        router.weight[:NUM] = router.weight[order]
    torch.testing.assert_close(dense_gates(router(x_TD)), before[:, order])


@pytest.mark.parametrize("name", sorted(ROUTERS.keys() - CAPACITY))
def test_shuffled_tokens_are_routed_alike(name: str, x_TD: Tensor) -> None:
    torch.manual_seed(0)
    router = ROUTERS[name](DIM, NUM).eval()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        dense_gates(router(x_TD[order], IDS_T[order])), dense_gates(router(x_TD, IDS_T))[order]
    )


def test_a_router_survives_its_state_dict(router: Router, x_TD: Tensor) -> None:
    twin = type(router)(DIM, NUM).eval()
    twin.load_state_dict(router.state_dict())
    for a, b in zip(router.eval()(x_TD, IDS_T), twin(x_TD, IDS_T), strict=True):
        torch.testing.assert_close(a, b)


def spread() -> Routing:
    """Two slots for each token, over all experts."""
    experts_TK = torch.stack([torch.arange(TOKENS) % NUM, (torch.arange(TOKENS) + 1) % NUM], 1)
    return Routing(
        torch.full((TOKENS, 2), 0.5), experts_TK, torch.full((TOKENS, NUM), 0.25), torch.zeros(())
    )


def test_a_row_depends_on_its_token_alone(experts: Experts, x_TD: Tensor) -> None:
    routing = spread()
    dispatch = plan(experts.executed(routing), NUM)
    together = experts(x_TD, dispatch, routing)
    for token in (0, 13):
        alone = Routing(
            *(part[token : token + 1] for part in routing[:3]), aux_loss=routing.aux_loss
        )
        # Rows come sorted by expert, in a batch of one as in a batch of many.
        got = experts(x_TD[token : token + 1], plan(experts.executed(alone), NUM), alone)
        expected = together[dispatch.tokens_S == token]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_experts_differ_and_each_owns_its_weights(experts: Experts, x_TD: Tensor) -> None:
    routing = spread()
    dispatch = plan(experts.executed(routing), NUM)
    before = experts(x_TD, dispatch, routing)
    ends = [0, *dispatch.ends_E.tolist()]
    assert experts.expert(1), "an expert owns something"
    with torch.no_grad():
        for part in experts.expert(1).values():
            part.copy_(torch.randn(part.shape))
    after = experts(x_TD, dispatch, routing)
    assert not torch.allclose(after[ends[1] : ends[2]], before[ends[1] : ends[2]])
    others = [row for row in range(len(before)) if not ends[1] <= row < ends[2]]
    torch.testing.assert_close(after[others], before[others])


def test_every_pair_trains(router: Router, experts: Experts, x_TD: Tensor) -> None:
    layer = MoELayer(router, experts).train()
    x_TD.requires_grad_()
    hidden, routing = layer(x_TD, IDS_T)
    (hidden.square().mean() + routing.aux_loss).backward()
    assert hidden.shape == x_TD.shape
    assert x_TD.grad is not None
    assert x_TD.grad.isfinite().all()
    assert x_TD.grad.any()
    gradients = [part.grad for part in layer.parameters() if part.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    if isinstance(router, LinearRouter):
        assert router.weight.grad is not None
        assert router.weight.grad.any()


def test_every_pair_can_be_audited(router: Router, experts: Experts, x_TD: Tensor) -> None:
    layer = MoELayer(router, experts).eval()
    whole = layer(x_TD, IDS_T).hidden
    with layer.recording() as recording, layer.averaging() as means:
        layer(x_TD, IDS_T)
    busiest = int(recording.load_E.argmax())
    changes = {
        "without": layer.without({busiest}),
        "zeroed": layer.zeroed({busiest}),
        "averaged": layer.averaged({busiest}, means.mean_ED),
        "replaced": layer.replaced({busiest: {k: v * 2 for k, v in layer.expert(busiest).items()}}),
    }
    for name, change in changes.items():
        with change:
            assert not torch.allclose(layer(x_TD, IDS_T).hidden, whole), name
        torch.testing.assert_close(layer(x_TD, IDS_T).hidden, whole, msg=name)
