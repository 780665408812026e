"""What an audit may see and change in a layer, and that nothing of it remains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK
from moe_core.routing import EMPTY
from tests.moe_layers import DIM, EXPERTS, INNER, layer, swiglu, token_by_token, tokens

HOOKS: dict[str, Callable[[MoELayer], AbstractContextManager[object]]] = {
    "recording": lambda made: made.recording(),
    "averaging": lambda made: made.averaging(),
    "without": lambda made: made.without({0}),
    "zeroed": lambda made: made.zeroed({0}),
    "averaged": lambda made: made.averaged({0}, torch.ones(EXPERTS, DIM)),
    "forced": lambda made: made.forced(torch.tensor([[1, 0]])),
    "replaced": lambda made: made.replaced({0: {"down_proj": torch.zeros(DIM, INNER)}}),
}
CHANGES = sorted(HOOKS.keys() - {"recording", "averaging"})


@pytest.mark.parametrize("name", HOOKS)
def test_the_layer_is_as_before_even_after_an_exception(name: str) -> None:
    made, x_TD = layer(), tokens()
    before, state = made(x_TD), {k: v.clone() for k, v in made.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), HOOKS[name](made):  # noqa: PT012
        made(x_TD)
        raise RuntimeError("inside")
    after = made(x_TD)
    assert torch.equal(after.hidden, before.hidden)
    assert torch.equal(after.routing.probs_TE, before.routing.probs_TE)
    assert all(torch.equal(made.state_dict()[name], old) for name, old in state.items())


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_changes_the_output(name: str) -> None:
    made, x_TD = layer(), tokens()
    before = made(x_TD).hidden
    with HOOKS[name](made):
        assert not torch.allclose(made(x_TD).hidden, before)


@pytest.mark.parametrize("inner", HOOKS)
@pytest.mark.parametrize("outer", HOOKS)
def test_hooks_nest(outer: str, inner: str) -> None:
    made, x_TD = layer(), tokens()
    with HOOKS[outer](made):
        once = made(x_TD).hidden
        with HOOKS[inner](made):
            made(x_TD)
        assert torch.equal(made(x_TD).hidden, once)


def test_a_recording_holds_routing_load_and_contributions() -> None:
    made, x_TD = layer(), tokens().requires_grad_()
    with made.recording() as recording:
        routing = made(x_TD).routing
        made(x_TD[:3])
    first, second = recording.passes
    assert torch.equal(first.probs_TE, routing.probs_TE)
    assert torch.equal(first.experts_TK, routing.experts_TK)
    assert torch.equal(first.load_E, routing.load_E)
    assert recording.load_E.sum() == 2 * (len(x_TD) + 3)
    assert len(second.experts_TK) == 3
    assert not any(part.requires_grad for part in first)
    expert, weight = routing.experts_TK[5, 1].item(), routing.weights_TK[5, 1]
    own = made.expert(int(expert))
    answer = weight * swiglu(x_TD[5], own)
    assert first.contribution_TK[5, 1].item() == pytest.approx(answer.norm().item(), rel=1e-5)


def test_a_recording_sees_what_interventions_left() -> None:
    made, x_TD = layer(), tokens()
    with made.recording() as recording, made.zeroed({1}):
        made(x_TD)
    (record,) = recording.passes
    assert record.load_E[1] == 0
    assert (record.experts_TK == EMPTY).any()
    assert torch.equal(record.contribution_TK == 0, record.experts_TK < 0)


def test_an_empty_recording_has_no_load() -> None:
    made = layer()
    with made.recording() as recording, made.averaging() as means:
        pass
    with pytest.raises(ValueError, match="nothing ran"):
        _ = recording.load_E
    with pytest.raises(ValueError, match="nothing ran"):
        _ = means.mean_ED


@pytest.mark.parametrize("cut", [{0}, {1, 3}])
def test_routing_around_experts_is_a_layer_without_them(cut: set[int]) -> None:
    made, x_TD = layer(), tokens()
    kept = sorted(set(range(EXPERTS)) - cut)
    smaller = MoELayer(SoftmaxTopK(DIM, len(kept)), SwiGLUExperts(DIM, INNER, len(kept))).double()
    smaller.router.load_state_dict({"weight": made.router.weight[kept]})
    smaller.experts.load_state_dict(
        {name: part[kept] for name, part in made.experts.state_dict().items()}
    )
    with made.without(cut):
        hidden, routing = made(x_TD)
    torch.testing.assert_close(hidden, smaller(x_TD).hidden)
    assert routing.load_E[sorted(cut)].sum() == 0


def test_fewer_experts_than_slots_leave_slots_empty() -> None:
    made = layer()
    with made.without({0, 1, 3}):
        routing = made(tokens()).routing
    assert routing.experts_TK[:, 0].unique().tolist() == [2]
    assert routing.experts_TK[:, 1].unique().tolist() == [EMPTY]
    assert routing.weights_TK.unique().tolist() == [0, 1]


def test_a_silenced_expert_is_missing_and_nothing_else_changes() -> None:
    made, x_TD = layer(), tokens()
    routing = made(x_TD).routing
    with made.zeroed({2}):
        silenced = made(x_TD)
    kept = routing._replace(weights_TK=routing.weights_TK.masked_fill(routing.experts_TK == 2, 0))
    torch.testing.assert_close(silenced.hidden, token_by_token(made, x_TD, kept))
    assert torch.equal(silenced.routing.probs_TE, routing.probs_TE)


def test_a_broken_expert_can_be_silenced_or_averaged() -> None:
    made, x_TD = layer(), tokens()
    broken = {2: {"down_proj": torch.full((DIM, INNER), torch.nan)}}
    zeros = torch.zeros(EXPERTS, DIM)
    with made.replaced(broken), made.zeroed({2}):
        assert made(x_TD).hidden.isfinite().all()
    with made.replaced(broken), made.averaged({2}, zeros):
        assert made(x_TD).hidden.isfinite().all()


def test_averages_are_the_mean_answers() -> None:
    made, x_TD = layer(), tokens()
    with made.averaging() as means:
        routing = made(x_TD[:7]).routing
        made(x_TD[7:])
    routing = made(x_TD).routing
    own = made.expert(3)
    answers = [
        swiglu(x_TD[token], own)
        for token in (routing.experts_TK == 3).any(1).nonzero().flatten().tolist()
    ]
    torch.testing.assert_close(means.mean_ED[3], torch.stack(answers).mean(0).float())


def test_an_averaged_expert_answers_the_same_to_all() -> None:
    made, x_TD = layer(), tokens()
    mean_ED = torch.randn(EXPERTS, DIM, dtype=torch.float64)
    routing = made(x_TD).routing
    hit_TK = routing.experts_TK == 1
    without = token_by_token(
        made, x_TD, routing._replace(weights_TK=routing.weights_TK.masked_fill(hit_TK, 0))
    )
    share_T1 = (routing.weights_TK * hit_TK).sum(1, keepdim=True)
    with made.averaged({1}, mean_ED):
        torch.testing.assert_close(made(x_TD).hidden, without + share_T1 * mean_ED[1])


@pytest.mark.parametrize("weights", [None, torch.tensor([[0.25, 0.0]])])
def test_forcing_overrides_named_slots_only(weights: Tensor | None) -> None:
    made, x_TD = layer(), tokens()
    routing = made(x_TD).routing
    with made.forced(torch.tensor([[3, -1]]), weights):
        forced = made(x_TD)
    assert (forced.routing.experts_TK[:, 0] == 3).all()
    assert torch.equal(forced.routing.experts_TK[:, 1], routing.experts_TK[:, 1])
    expected = routing.weights_TK.clone()
    if weights is not None:
        expected[:, 0] = 0.25
    torch.testing.assert_close(forced.routing.weights_TK, expected)
    torch.testing.assert_close(forced.hidden, token_by_token(made, x_TD, forced.routing))


def test_forcing_takes_a_choice_for_each_token() -> None:
    made, x_TD = layer(), tokens()
    wanted = torch.randint(EXPERTS, (len(x_TD), 2), generator=torch.Generator().manual_seed(0))
    with made.forced(wanted):
        assert torch.equal(made(x_TD).routing.experts_TK, wanted)


def test_forcing_an_expert_that_does_not_exist_is_an_error() -> None:
    made = layer()
    with made.forced(torch.tensor([[EXPERTS, -1]])), pytest.raises(ValueError, match="no such"):
        made(tokens())


def test_replacing_acts_on_named_tensors_of_one_expert() -> None:
    made = layer()
    before = {index: made.expert(index)["down_proj"].clone() for index in range(EXPERTS)}
    new = torch.randn(DIM, INNER, dtype=torch.float64)
    with made.replaced({1: {"down_proj": new}}):
        assert torch.equal(made.expert(1)["down_proj"], new)
        assert torch.equal(made.expert(0)["down_proj"], before[0])
    assert torch.equal(made.expert(1)["down_proj"], before[1])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({9: {}}, "expert 9 of 4"),
        ({0: {"bias": torch.zeros(1)}}, "'bias'"),
        ({0: {"down_proj": torch.zeros(3, 3)}}, r"\(8, 12\); got \(3, 3\)"),
    ],
)
def test_a_replacement_that_does_not_fit_changes_nothing(
    weights: dict[int, dict[str, Tensor]], message: str
) -> None:
    made = layer()
    before = made.expert(1)["down_proj"].clone()
    fits = {1: {"down_proj": torch.zeros(DIM, INNER)}}
    with pytest.raises(ValueError, match=message), made.replaced(fits | weights):
        pass
    assert torch.equal(made.expert(1)["down_proj"], before)


@pytest.mark.parametrize("hook", ["without", "zeroed"])
def test_an_expert_that_does_not_exist_is_refused(hook: str) -> None:
    with pytest.raises(ValueError, match="no such index"), getattr(layer(), hook)({EXPERTS}):
        pass


def test_routing_around_everything_is_refused() -> None:
    made = layer()
    with (
        made.without({0, 1}),
        pytest.raises(ValueError, match="leave at least one"),
        made.without({2, 3}),
    ):
        pass
