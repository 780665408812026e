"""Duo-LLM (Alizadeh et al., arXiv:2410.10846)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core.experts.duo import BIG, SKIP, SMALL, DuoExperts
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.oracle import Oracle, gain_over_null, pattern_losses, patterns
from moe_core.routers.duo import BudgetRouter, RandomRouter, budget_loss
from moe_core.routers.top_k import SoftmaxTopK
from moe_core.routing import Routing

LAYERS, CLASSES = 4, 3
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


class Stack(nn.Module):
    """Residual layers of big, small and skip modules, and a classifier of tokens."""

    def __init__(self, modules: int = 3, layers: int = LAYERS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            MoELayer(RandomRouter(6, modules), DuoExperts(6, 32, modules)) for _ in range(layers)
        )
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).hidden
        return self.head(x)


def labels_of(x: Tensor) -> Tensor:
    return (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()


def oracle_of(model: Stack, labels: Tensor, modules: int = 3) -> Oracle:
    routes = patterns(LAYERS, modules=modules)
    losses = pattern_losses(
        list(model.layers), lambda: F.cross_entropy(model(X), labels, reduction="none"), routes
    )
    return Oracle(routes, losses)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return oracle_of(Stack().eval(), labels_of(X))


def routing_with(big: float) -> Routing:
    probs = torch.tensor([[big, 1 - big]] * 5, requires_grad=True)
    return Routing(probs, torch.tensor([[0, 1]] * 5), probs, torch.zeros(()))


def test_oracle_is_below_the_best_fixed_route_which_is_below_every_route(oracle) -> None:
    assert oracle.loss <= oracle.best_fixed
    assert all(oracle.best_fixed <= row.mean() + 1e-6 for row in oracle.losses_PT)
    assert oracle.losses_PT.gather(0, oracle.route_T[None]).mean().item() == pytest.approx(
        oracle.loss
    )


def test_the_oracle_over_all_routes_is_below_that_of_any_budget(oracle) -> None:
    budgets = [oracle.with_big(big).loss for big in range(LAYERS + 1)]
    assert all(oracle.loss <= loss for loss in budgets)


def test_a_larger_budget_may_be_worse() -> None:
    routes = patterns(2)
    losses = torch.tensor([[3.0], [1.0], [2.0], [2.0]])  # both big, big-small, small-big, small
    made = Oracle(routes, losses)
    assert [made.with_big(big).loss for big in (0, 1, 2)] == [2, 1, 3]


@pytest.mark.parametrize("layers", [4, 12])
def test_the_number_of_routes_with_a_budget_is_a_binomial_coefficient(layers) -> None:
    assert len(patterns(layers)) == 2**layers
    for big in range(layers + 1):
        routes = patterns(layers, big=big)
        assert len(routes) == len(routes.unique(dim=0)) == math.comb(layers, big)
        assert ((routes == BIG).sum(1) == big).all()
    assert len(patterns(3, modules=3)) == 27


def test_no_token_is_easier_than_its_oracle(oracle) -> None:
    difficulty = oracle.difficulty()
    assert (difficulty >= 0).all()
    small = (oracle.routes_PL == SMALL).all(1)
    assert torch.equal(difficulty, oracle.losses_PT[small][0] - oracle.losses_PT.amin(0))
    with pytest.raises(ValueError, match="small module everywhere"):
        oracle.with_big(1).difficulty()


def test_skip_is_the_identity_behind_the_residual() -> None:
    model = Stack().eval()
    model.head = nn.Identity()
    routes = torch.full((1, LAYERS), SKIP)
    moved = pattern_losses(list(model.layers), lambda: (model(X) - X).abs().sum(1), routes)
    assert not moved.any()


def test_a_forced_route_runs_the_named_modules() -> None:
    model = Stack(layers=1).eval()
    experts = model.layers[0].experts
    norms = pattern_losses(
        [model.layers[0]], lambda: model.layers[0](X).hidden.norm(dim=1), patterns(1)
    )
    for module in (BIG, SMALL):
        gate, up = (X @ experts.gate_up[module].weight.T).chunk(2, dim=-1)
        expected = (F.silu(gate) * up) @ experts.down[module].weight.T
        torch.testing.assert_close(norms[module], expected.norm(dim=1))
    assert experts.down[BIG].weight.numel() == 16 * experts.down[SMALL].weight.numel()


def test_parameters_of_the_published_model() -> None:
    with torch.device("meta"):
        duo = DuoExperts(2560, 10240)
        attention = 4 * 2560 * 2560
    big, small = (
        12 * sum(tensor.numel() for tensor in duo.expert(index).values()) for index in (BIG, SMALL)
    )
    assert big == pytest.approx(943.7e6, rel=1e-4)
    assert small == pytest.approx(59.0e6, rel=1e-3)
    total = big + small + 12 * attention + 32_000 * 2560
    assert total == pytest.approx(1.399e9, rel=1e-3)


def test_the_share_of_stage_one_is_binomial_and_layers_draw_by_themselves() -> None:
    torch.manual_seed(0)
    tokens = torch.zeros(20_000, 6)
    first, second = (RandomRouter(6, 2)(tokens).experts_TK[:, 0].float() for _ in range(2))
    deviation = 0.5 / math.sqrt(20_000)
    assert abs(first.mean() - 0.5) < 4 * deviation
    assert abs((first == second).float().mean() - 0.5) < 4 * deviation


def test_draws_follow_the_generator_and_leave_out_what_is_excluded() -> None:
    draws = [
        RandomRouter(6, 3, generator=torch.Generator().manual_seed(1))(X).experts_TK
        for _ in range(2)
    ]
    assert torch.equal(*draws)
    router = RandomRouter(6, 3)
    with router.excluding({1}):
        assert router(X).load_E[1] == 0


def test_tokens_that_are_not_forced_take_the_big_module_in_evaluation() -> None:
    assert RandomRouter(6, 3).eval()(X).load_E.tolist() == [len(X), 0, 0]


@pytest.mark.parametrize(("big", "sign"), [(0.3, -1), (0.5, 0), (0.8, 1)])
def test_the_budget_gradient_pulls_towards_the_budget(big, sign) -> None:
    routings = [routing_with(big), routing_with(big)]
    loss = budget_loss(routings, 0.5, coef=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(2 * (big - 0.5) ** 2)
    for routing in routings:
        assert (routing.probs_TE.grad[:, BIG].sign() == sign).all()


def test_layers_may_share_a_budget_unequally() -> None:
    assert budget_loss([routing_with(0.9), routing_with(0.1)], 0.5).item() == pytest.approx(0)


def test_the_learned_router_mixes_in_training_and_chooses_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = MoELayer(BudgetRouter(6, 3), DuoExperts(6, 32, 3))
    nn.init.normal_(layer.router.weight)
    mixed = layer(X)
    outputs = []
    for module in range(3):
        with layer.forced(torch.full((1, 3), module), torch.tensor([[1.0, 0.0, 0.0]])):
            outputs.append(layer(X).hidden)
    probs = mixed.routing.probs_TE
    expected = sum(probs[:, [module]] * outputs[module] for module in range(3))
    torch.testing.assert_close(mixed.hidden, expected)
    chosen = layer.eval()(X)
    best = probs.argmax(1)
    assert torch.equal(chosen.routing.experts_TK[:, 0], best)
    expected = torch.stack(outputs)[best, torch.arange(len(X))]
    torch.testing.assert_close(chosen.hidden, expected)


def test_a_rising_temperature_turns_the_mixture_into_a_choice() -> None:
    router = BudgetRouter(6, 2)
    nn.init.normal_(router.weight)
    sharpness = []
    for router.temperature in (0.0, 1.0, 10.0, 1000.0):
        sharpness.append(router(X).probs_TE.amax(1).mean().item())
    assert sharpness[0] == 0.5
    assert all(low < high for low, high in pairwise(sharpness))
    assert sharpness[-1] > 0.99


def test_training_with_a_budget_meets_it() -> None:
    model = Stack(modules=2)
    for layer in model.layers:
        layer.router = BudgetRouter(6, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(80):
        h, routings = X, []
        for layer in model.layers:
            layer.router.temperature = 1 + step / 20
            added, routing = layer(h)
            h = h + added
            routings.append(routing)
        loss = F.cross_entropy(model.head(h), labels_of(X)) + budget_loss(routings, 0.25, coef=5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    share = torch.stack([routing.probs_TE[:, BIG].mean() for routing in routings]).mean()
    assert share.item() == pytest.approx(0.25, abs=0.08)


def test_on_shuffled_labels_the_oracle_gains_by_selection_alone(oracle) -> None:
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(1))
    null = oracle_of(Stack().eval(), labels_of(X)[order])
    assert null.gain > 0  # though no route knows anything of these labels
    assert gain_over_null(oracle, null) == pytest.approx(oracle.gain - null.gain)
    assert gain_over_null(null, null) == 0


def test_noise_gains_no_more_than_the_null_control_and_more_routes_gain_more() -> None:
    generator = torch.Generator().manual_seed(0)
    routes = patterns(LAYERS)
    noise = Oracle(routes, torch.rand(len(routes), 4000, generator=generator))
    null = Oracle(routes, torch.rand(len(routes), 4000, generator=generator))
    assert abs(gain_over_null(noise, null)) < 0.02
    assert noise.with_big(2).gain > noise.with_big(1).gain > noise.with_big(0).gain == 0


def test_a_null_control_of_other_routes_is_refused(oracle) -> None:
    with pytest.raises(ValueError, match="same routes"):
        gain_over_null(oracle, oracle.with_big(2))


def test_the_best_of_random_routes_lies_between_the_best_and_the_worst(oracle) -> None:
    generator = torch.Generator().manual_seed(0)
    some = oracle.best_of_random(10, generator=generator)
    assert oracle.best_fixed <= some <= oracle.losses_PT.mean(1).max()
    every = oracle.best_of_random(len(oracle.routes_PL), generator=generator)
    assert every == pytest.approx(oracle.best_fixed)


def test_experts_of_an_ordinary_layer_can_be_forced_one_by_one() -> None:
    torch.manual_seed(0)
    layer = MoELayer(SoftmaxTopK(6, 4, 2), SwiGLUExperts(6, 8, 4)).eval()
    losses = pattern_losses(
        [layer], lambda: layer(X).hidden.square().sum(1), patterns(1, modules=4)
    )
    for index in range(4):
        with layer.without(set(range(4)) - {index}):
            torch.testing.assert_close(losses[index], layer(X).hidden.square().sum(1))


def test_other_numbers_of_modules_are_refused() -> None:
    with pytest.raises(ValueError, match="num_experts=4; 2 is big and small"):
        DuoExperts(6, 32, 4)
