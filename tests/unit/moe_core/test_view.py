from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.ffn import SwiGLU
from moe_core.layer import MoELayer
from moe_core.routers import ROUTERS
from moe_core.view import ExpertId, ExpertView
from tests.moe_layers import DIM, EXPERTS, INNER, layer, tokens


class Tower(nn.Module):
    """Two Mixture-of-Experts layers around something else."""

    def __init__(self) -> None:
        super().__init__()
        self.low = layer(seed=2)
        self.dense = nn.Linear(DIM, DIM).double()
        self.high = layer(seed=3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.low(x).hidden
        hidden: Tensor = self.high(self.dense(x)).hidden
        return hidden


@pytest.fixture
def tower() -> Tower:
    torch.manual_seed(0)
    return Tower().eval()


@pytest.fixture
def view(tower: Tower) -> ExpertView:
    return ExpertView.of(tower)


def test_layers_come_in_order_with_their_paths(tower: Tower, view: ExpertView) -> None:
    assert view.names == ("low", "high")
    assert view.layers == (tower.low, tower.high)
    assert list(view.experts())[EXPERTS - 1 : EXPERTS + 1] == [ExpertId(0, 3), ExpertId(1, 0)]


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear holds no MoELayer"):
        ExpertView.of(nn.Linear(2, 2))


def test_expert_weights_and_router_rows_are_read_by_index(tower: Tower, view: ExpertView) -> None:
    own = view.expert(ExpertId(1, 2))
    stored = tower.high.experts.state_dict()["gate_up_proj"][2]
    assert torch.equal(torch.cat([own["gate_proj"], own["up_proj"]]), stored)
    row = view.layers[1].router_weight
    assert row is not None
    assert torch.equal(row, tower.high.router.state_dict()["weight"])


def test_null_experts_have_no_router_row() -> None:
    made = MoELayer(ROUTERS["null"](DIM, EXPERTS), SwiGLUExperts(DIM, INNER, EXPERTS))
    assert made.router_weight is not None
    assert made.router_weight.shape == (EXPERTS, DIM)


def test_a_router_without_rows_says_so() -> None:
    made = MoELayer(ROUTERS["hash"](DIM, EXPERTS), SwiGLUExperts(DIM, INNER, EXPERTS))
    assert made.router_weight is None


def test_biases_are_told_apart_by_what_they_count_for() -> None:
    for name, of_logits, of_choice in [
        ("softmax", False, False),
        ("loss-free", False, True),
        ("skywork", True, False),
    ]:
        made = MoELayer(ROUTERS[name](DIM, EXPERTS), SwiGLUExperts(DIM, INNER, EXPERTS))
        for bias, there in [(made.router_bias, of_logits), (made.selection_bias, of_choice)]:
            assert (bias is not None) == there
            assert bias is None or bias.shape == (EXPERTS,)


def test_a_selection_bias_can_be_written() -> None:
    made = MoELayer(ROUTERS["loss-free"](DIM, EXPERTS), SwiGLUExperts(DIM, INNER, EXPERTS)).eval()
    assert made.selection_bias is not None
    made.selection_bias[2] = -torch.inf
    with made.recording() as recording:
        made(tokens(dtype=torch.float32))
    assert recording.load_E[2] == 0


@pytest.mark.parametrize("gated", [False, True])
def test_shared_experts_are_seen_and_silenced_by_layer(tower: Tower, gated: bool) -> None:
    view, x_TD = ExpertView.of(tower), tokens()
    before = tower(x_TD)
    assert list(view.shared()) == []
    tower.high.shared = SwiGLU(DIM, 5, gated=gated).double()
    assert list(view.shared()) == [1]
    assert not torch.equal(tower(x_TD), before)
    with view.without_shared([1]):
        torch.testing.assert_close(tower(x_TD), before)
    own = view.layers[1].shared_expert()
    assert own is not None
    assert set(own) == {"gate_proj", "up_proj", "down_proj"} | ({"gate"} if gated else set())
    with torch.no_grad():
        own["down_proj"].zero_()
    torch.testing.assert_close(tower(x_TD), before)
    with pytest.raises(ValueError, match="no shared expert"), view.without_shared([0]):
        pass


def test_any_module_may_be_shared() -> None:
    made = layer()
    made.shared = nn.Linear(DIM, DIM)
    shared = made.shared_expert()
    assert shared is not None
    assert set(shared) == {"weight", "bias"}


def test_parameters_are_counted_by_part() -> None:
    made = layer()
    made.shared = SwiGLU(DIM, 5)
    counts = made.parameter_counts()
    assert counts.own == (3 * INNER * DIM,) * EXPERTS
    assert (counts.router, counts.shared, counts.common) == (EXPERTS * DIM, 3 * 5 * DIM, 0)
    assert counts.total == sum(part.numel() for part in made.parameters())
    assert counts.active(2) == counts.total - 2 * 3 * INNER * DIM


def test_all_layers_are_recorded(tower: Tower, view: ExpertView) -> None:
    with view.recording() as recordings:
        tower(tokens())
    assert [len(recording.passes) for recording in recordings] == [1, 1]
    assert [recording.load_E.sum().item() for recording in recordings] == [32, 32]


def test_experts_of_several_layers_are_routed_around(tower: Tower, view: ExpertView) -> None:
    cut = [ExpertId(0, 1), ExpertId(1, 0), ExpertId(1, 2)]
    with view.without(cut), view.recording() as (low, high):
        tower(tokens())
    assert low.load_E[1] == 0
    assert high.load_E[[0, 2]].sum() == 0
    assert low.load_E[[0, 2, 3]].min() > 0


def test_only_keeps_the_named_and_leaves_other_layers(tower: Tower, view: ExpertView) -> None:
    with view.only([ExpertId(0, 1)]), view.recording() as (low, high):
        tower(tokens())
    assert low.load_E.tolist() == [0, 16, 0, 0]
    assert (high.load_E > 0).sum() > 2


def test_silenced_and_averaged_experts_change_their_layer(tower: Tower, view: ExpertView) -> None:
    x_TD = tokens()
    with view.averaging() as means:
        before = tower(x_TD)
    every = [ExpertId(1, expert) for expert in range(EXPERTS)]
    with view.zeroed(every):
        assert torch.equal(tower(x_TD), torch.zeros_like(before))
    with view.averaged(every, means):
        averaged = tower(x_TD)
    assert not torch.allclose(averaged, before)
    assert averaged.norm() > 0


def test_slots_are_forced_by_layer(tower: Tower, view: ExpertView) -> None:
    with view.forced({1: torch.tensor([[2, 3]])}), view.recording() as (low, high):
        tower(tokens())
    assert high.load_E.tolist() == [0, 0, 16, 16]
    assert (low.load_E > 0).sum() > 2


def test_experts_of_several_layers_are_replaced_and_come_back(
    tower: Tower, view: ExpertView
) -> None:
    x_TD, nothing = tokens(), torch.zeros(DIM, INNER)
    before = tower(x_TD)
    weights = {expert: {"down_proj": nothing} for expert in view.experts()}
    with view.replaced(weights):
        assert torch.equal(tower(x_TD), torch.zeros_like(before))
    assert torch.equal(tower(x_TD), before)


def test_a_mistake_in_one_layer_leaves_all_as_they_were(tower: Tower, view: ExpertView) -> None:
    x_TD = tokens()
    before = tower(x_TD)
    mistaken = [ExpertId(0, 1), ExpertId(1, EXPERTS)]
    with pytest.raises(ValueError, match="no such index"), view.without(mistaken):
        pass
    assert torch.equal(tower(x_TD), before)


@pytest.mark.parametrize("missing", [ExpertId(2, 0), ExpertId(-1, 0), ExpertId(0, -1)])
def test_what_does_not_exist_is_refused(view: ExpertView, missing: ExpertId) -> None:
    with pytest.raises(ValueError, match="no such index"):
        view.expert(missing)
    with pytest.raises(ValueError, match="no such index"), view.zeroed([missing]):
        pass
