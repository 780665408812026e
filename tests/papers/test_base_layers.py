"""BASE layers (Lewis et al., ICML 2021, arXiv:2103.16716)."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from moe_core.assignment import assignment_score, auction, exact, greedy
from moe_core.base_layer import BaseLayer, placement
from moe_core.bench import assignment as bench
from moe_core.dispatch import combine, permute, plan
from moe_core.routers.base_layers import BaseRouter
from tests.papers.base_layers_ranks import compare
from tests.ranks import on_ranks

BACKENDS = pytest.mark.parametrize("assign", [auction, exact])
shapes = st.tuples(st.integers(2, 8), st.integers(1, 8)).map(lambda s: (s[0] * s[1], s[0]))


def scores_of(tokens: int, experts: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, experts, generator=generator, dtype=torch.float64)


def optimum(scores: Tensor) -> float:
    """By scipy, on columns repeated as often as an expert has places."""
    tokens, experts = scores.shape
    columns = scores.repeat_interleave(tokens // experts, dim=1)
    rows, slots = linear_sum_assignment(columns.numpy(), maximize=True)
    return columns[rows, slots].sum().item()


def layer_with_life(experts: int = 4, **options) -> BaseLayer:
    torch.manual_seed(0)
    layer = BaseLayer(8, 16, experts, **options)
    torch.nn.init.normal_(layer.moe.experts.ff2_weight, std=0.3)
    return layer


@BACKENDS
@given(shape=shapes, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_each_expert_gets_exactly_its_share_of_tokens(assign, shape, seed):
    tokens, experts = shape
    chosen = assign(scores_of(tokens, experts, seed))
    assert chosen.bincount(minlength=experts).tolist() == [tokens // experts] * experts


@BACKENDS
def test_ties_and_a_favourite_of_all_are_balanced_too(assign):
    favourite = torch.zeros(12, 3)
    favourite[:, 1] = 100.0
    for scores in (torch.zeros(12, 3), favourite):
        assert assign(scores).bincount(minlength=3).tolist() == [4, 4, 4]


@given(shape=shapes, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_dispatch_is_a_bijection_and_unsorting_is_the_identity(shape, seed):
    tokens, experts = shape
    dispatch = plan(auction(scores_of(tokens, experts, seed)).unsqueeze(1), experts)
    assert sorted(dispatch.tokens_S.tolist()) == list(range(tokens))
    x = torch.randn(tokens, 5)
    back = combine(permute(x, dispatch), torch.ones(tokens, 1), dispatch)
    torch.testing.assert_close(back, x, rtol=0, atol=0)


@given(shape=shapes, seed=st.integers(0, 1000), eps=st.sampled_from([0.5, 0.1, 0.01]))
@settings(deadline=None, max_examples=60)
def test_the_auction_stays_within_tokens_times_eps_of_the_optimum(shape, seed, eps):
    scores = scores_of(*shape, seed)
    reached = assignment_score(scores, auction(scores, eps=eps)).item()
    best = optimum(scores)
    assert best - shape[0] * eps <= reached <= best + 1e-9


def test_an_eps_below_the_resolution_of_the_scores_still_ends_the_auction() -> None:
    scores = 1e4 * scores_of(32, 4, 0).float()
    assert auction(scores, eps=1e-9).bincount().tolist() == [8] * 4


@pytest.mark.parametrize("tokens", [256, 512])
def test_the_auction_is_within_half_a_percent_from_256_tokens_on(tokens: int) -> None:
    for seed in range(5):
        scores = scores_of(tokens, 8, seed)
        reached = assignment_score(scores, auction(scores)).item()
        assert reached >= 0.995 * optimum(scores)


@given(shape=shapes, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_exact_backend_reaches_the_optimum(shape, seed):
    scores = scores_of(*shape, seed)
    assert assignment_score(scores, exact(scores)).item() == pytest.approx(optimum(scores))


def test_the_optimum_of_a_hand_worked_case() -> None:
    # All want expert 0, by 1, 3, 1.5 and 2: the second and the fourth lose most elsewhere.
    scores = torch.tensor([[5.0, 4.0], [5.0, 2.0], [3.5, 2.0], [3.0, 1.0]])
    assert exact(scores).tolist() == auction(scores).tolist() == [1, 0, 1, 0]
    assert assignment_score(scores, exact(scores)) == 4 + 5 + 2 + 3


def test_the_untrained_layer_returns_its_input() -> None:
    h = torch.randn(2, 8, 8)
    assert torch.equal(BaseLayer(8, 16, 4)(h), h)
    assert torch.equal(BaseLayer(8, 16, 4, sublayers=2).eval()(h), h)


def test_centroids_start_orthogonal_and_small() -> None:
    centroids = BaseRouter(16, 4).weight
    torch.testing.assert_close(centroids @ centroids.T, 0.01 * torch.eye(4))


def test_the_output_is_the_gated_residual_of_the_assigned_expert() -> None:
    layer = layer_with_life()
    h = torch.randn(8, 8)
    chosen = auction(h @ layer.moe.router.weight.T)
    expected = []
    for row, expert in zip(h, chosen.tolist(), strict=True):
        own = {name: value[0] for name, value in layer.moe.experts.expert(expert).items()}
        normed = torch.layer_norm(row, (8,), own["norm_weight"], own["norm_bias"])
        inner = torch.relu(own["ff1_weight"] @ normed + own["ff1_bias"])
        f = row + own["ff2_weight"] @ inner + own["ff2_bias"]
        alpha = torch.sigmoid(row @ layer.moe.router.weight[expert])
        expected.append(row + alpha * (f - row))
    torch.testing.assert_close(layer(h), torch.stack(expected))


def test_centroids_learn_only_through_the_gate_of_their_own_tokens() -> None:
    layer = layer_with_life()
    centroids = layer.moe.router.weight
    h = torch.randn(8, 8)
    output = layer(h)
    (gradient,) = torch.autograd.grad(output.sum(), centroids)

    chosen = auction(h @ centroids.T.detach())
    with torch.no_grad():
        alpha = (h @ centroids.T).sigmoid()[torch.arange(8), chosen]
        added = (output - h).sum(1) / alpha
        through_gate = (added * alpha * (1 - alpha)).unsqueeze(1) * h
        expected = torch.zeros_like(centroids).index_add_(0, chosen, through_gate)
    torch.testing.assert_close(gradient, expected)


def test_evaluation_is_causal_and_training_is_not() -> None:
    layer = layer_with_life(experts=2)
    h = torch.randn(8, 8)
    centroid = layer.moe.router.weight[0].detach()
    changed = h.clone()
    changed[4:] = 20 * centroid / centroid.norm()  # the future wants expert 0 more than anyone

    with torch.no_grad():
        layer.train()
        h[:4] = 2 * centroid / centroid.norm()
        h[4:] = -20 * centroid / centroid.norm()
        changed[:4] = h[:4]
        assert not torch.allclose(layer(h)[:4], layer(changed)[:4])
        layer.eval()
        assert torch.equal(layer(h)[:4], layer(changed)[:4])


def test_evaluation_takes_the_best_expert_without_balance() -> None:
    router = BaseRouter(4, 2).eval()
    h = router.weight[0].detach().expand(6, 4)
    assert router(h).experts_TK.tolist() == [[0]] * 6
    assert greedy(torch.tensor([[1.0, 2.0], [3.0, 0.0]])).tolist() == [1, 0]


@BACKENDS
@given(shape=shapes, seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_a_constant_per_token_changes_nothing(assign, shape, seed):
    scores = scores_of(*shape, seed)
    constants = torch.randint(-8, 9, (shape[0], 1)).double()
    assert torch.equal(assign(scores), assign(scores + constants))


@BACKENDS
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(5, 2), "5 tokens cannot be shared equally among 2 experts"),
        (torch.tensor([[1.0, float("nan")], [0.0, 0.0]]), "not finite"),
    ],
)
def test_impossible_assignments_are_refused(assign, scores, message):
    with pytest.raises(ValueError, match=message):
        assign(scores)


def test_excluded_experts_get_nothing_and_the_others_stay_balanced() -> None:
    router = BaseRouter(8, 4)
    with router.excluding({2}):
        assert router(torch.randn(12, 8)).load_E.tolist() == [4, 4, 0, 4]


@pytest.mark.parametrize(
    ("layers", "count", "paper", "code"),
    [
        (12, 1, [6], [6]),
        (12, 3, [3, 6, 9], [3, 5, 7]),
        (24, 2, [8, 16], [8, 15]),
    ],
)
def test_placement_in_the_paper_and_in_the_public_code(layers, count, paper, code):
    assert placement(layers, count) == paper
    assert placement(layers, count, as_in_public_code=True) == code


def test_the_comparison_with_scipy_is_written_and_shown(tmp_path, capsys) -> None:
    out = tmp_path / "assignment.json"
    bench.main(["--out", str(out), "--tokens", "512", "--experts", "8", "--seeds", "2"])
    means = json.loads(out.read_text(encoding="utf-8"))["means"]
    assert list(means) == list(bench.TOKENS)
    shown = capsys.readouterr().out
    for row in means.values():
        gaps = [row[name]["relative_gap"] for name in (bench.SCIPY, bench.FINER, bench.AUCTION)]
        assert 0 == gaps[0] <= gaps[1] < gaps[2] < 0.01
        assert f"{100 * gaps[2]:.2f} %" in shown


def test_two_ranks_compute_what_one_process_computes(tmp_path) -> None:
    on_ranks(compare, 2, tmp_path)
