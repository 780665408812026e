"""Compressed experts (He et al., arXiv:2503.00634)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_core import kernels
from moe_core.experts.compressed import (
    CompressedExperts,
    active_parameters,
    train_stand_ins_only,
)
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK

DIM, EXPERTS, K = 6, 5, 3
X = torch.randn(16, DIM, generator=torch.Generator().manual_seed(1))


def layer(inner: int = 10, *, alive: bool = True, **options) -> MoELayer:
    """A layer of compressed experts; ``alive`` moves the stand-ins away from one."""
    torch.manual_seed(0)
    router = SoftmaxTopK(DIM, EXPERTS, K, normalised=False)
    torch.nn.init.normal_(router.weight)
    experts = CompressedExperts(DIM, inner, EXPERTS, **options)
    for parameter in (experts.gate_up_proj, experts.down_proj):
        torch.nn.init.normal_(parameter, std=0.5)
    if alive:
        for theta in (experts.theta_gate, experts.theta_up, experts.theta_inner):
            torch.nn.init.normal_(theta, mean=1.0, std=0.5)
    return MoELayer(router, experts)


def by_hand(moe: MoELayer, x: Tensor, main: int) -> Tensor:
    """One token at a time, as the paper writes it."""
    experts = moe.experts
    rows = []
    for token in x:
        gates, order = (moe.router.weight @ token).softmax(0).sort(descending=True)
        gates, order = gates[:K], order[:K]
        shares = gates[main:] / gates[main:].sum()
        e1, e3, e2 = (
            (shares[:, None] * theta[order[main:]]).sum(0)
            for theta in (experts.theta_gate, experts.theta_up, experts.theta_inner)
        )
        out = torch.zeros(DIM)
        for gate, expert in zip(gates[:main], order[:main], strict=True):
            w_gate, w_up = experts.gate_up_proj[expert].chunk(2)
            inside = F.silu(w_gate @ (token * e1)) * (w_up @ (token * e3)) * e2
            out = out + gate * (experts.down_proj[expert] @ inside)
        rows.append(out)
    return torch.stack(rows)


@pytest.mark.parametrize("inner", [3, 10])
@pytest.mark.parametrize("main", [1, 2])
def test_the_output_is_the_papers_sum_for_narrow_and_wide_experts(inner, main) -> None:
    moe = layer(inner, main_slots=main)
    torch.testing.assert_close(moe(X).hidden, by_hand(moe, X, main))


def test_stand_ins_of_one_are_the_plain_layer_of_the_main_slots_without_renormalising() -> None:
    moe = layer(alive=False, main_slots=2)
    plain = MoELayer(moe.router, SwiGLUExperts(DIM, 10, EXPERTS))
    plain.experts.gate_up_proj, plain.experts.down_proj = (
        moe.experts.gate_up_proj,
        moe.experts.down_proj,
    )
    moe.router.top_k = 2
    expected = plain(X).hidden
    moe.router.top_k = K
    torch.testing.assert_close(moe(X).hidden, expected)


@torch.no_grad()
def test_with_equal_stand_ins_it_does_not_matter_which_experts_are_auxiliary() -> None:
    moe = layer(main_slots=1)
    for theta in (moe.experts.theta_gate, moe.experts.theta_up, moe.experts.theta_inner):
        theta.copy_(theta[0].expand_as(theta).clone())
    routing = moe(X).routing
    others = torch.full_like(routing.experts_TK, -1)
    others[:, 1:] = (routing.experts_TK[:, :1] + torch.tensor([1, 2])) % EXPERTS
    with moe.forced(others):
        forced = moe(X).hidden
    torch.testing.assert_close(forced, moe(X).hidden)


@torch.no_grad()
def test_a_single_auxiliary_expert_counts_with_its_own_stand_in_whatever_its_gate() -> None:
    moe = layer(main_slots=2)
    before = moe(X)
    halved = before.routing.weights_TK.clone()
    halved[:, 2] /= 2
    with moe.forced(before.routing.experts_TK, halved):
        torch.testing.assert_close(moe(X).hidden, before.hidden)


def test_stand_ins_of_experts_that_no_token_asked_for_get_no_gradient() -> None:
    moe = layer(main_slots=1)
    output = moe(X[:1])
    output.hidden.sum().backward()
    auxiliary = set(output.routing.experts_TK[0, 1:].tolist())
    for theta in (moe.experts.theta_gate, moe.experts.theta_up, moe.experts.theta_inner):
        moved = {index for index, row in enumerate(theta.grad) if row.any()}
        assert moved == auxiliary


def test_no_weight_of_an_auxiliary_expert_is_executed(monkeypatch) -> None:
    ran: list[Tensor] = []
    original = kernels.grouped_linear

    def counting(x, weight, ends):
        ran.append(ends.diff(prepend=ends.new_zeros(1)))
        return original(x, weight, ends)

    monkeypatch.setattr(kernels, "grouped_linear", counting)
    moe = layer(main_slots=1)
    routing = moe(X).routing
    first_choices = routing.experts_TK[:, 0].bincount(minlength=EXPERTS).tolist()
    assert [counts.tolist() for counts in ran] == [first_choices] * 3


def test_without_auxiliary_slots_it_is_the_plain_layer() -> None:
    moe = layer(main_slots=K)
    plain = MoELayer(moe.router, SwiGLUExperts(DIM, 10, EXPERTS))
    plain.experts.gate_up_proj, plain.experts.down_proj = (
        moe.experts.gate_up_proj,
        moe.experts.down_proj,
    )
    torch.testing.assert_close(moe(X).hidden, plain(X).hidden)


def test_the_formula_of_active_parameters() -> None:
    experts = CompressedExperts(DIM, 10, EXPERTS)
    one = experts.expert(0)
    whole = sum(one[name].numel() for name in ("gate_proj", "up_proj", "down_proj"))
    stand_in = sum(tensor.numel() for name, tensor in one.items() if name.startswith("theta"))
    assert active_parameters(DIM, 10, main=1, auxiliary=2) == whole + 2 * stand_in
    assert active_parameters(4, 8, main=1, auxiliary=1) == 96 + 16
    assert active_parameters(4, 8, main=2, auxiliary=0) == 192


def test_training_moves_the_stand_ins_and_nothing_else() -> None:
    teacher = layer(alive=False, main_slots=K)
    moe = MoELayer(teacher.router, CompressedExperts.of(teacher.experts, main_slots=1))
    target = teacher(X).hidden.detach()
    before = {name: value.clone() for name, value in moe.state_dict().items()}
    optimiser = torch.optim.Adam(train_stand_ins_only(moe), lr=0.03)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(moe(X).hidden, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = {name for name, value in moe.state_dict().items() if not value.equal(before[name])}
    assert moved == {"experts.theta_gate", "experts.theta_up", "experts.theta_inner"}


def test_a_demoted_expert_never_runs_and_only_its_tokens_change() -> None:
    teacher = layer(alive=False, main_slots=K)
    moe = MoELayer(teacher.router, CompressedExperts.of(teacher.experts, main_slots=None))
    torch.testing.assert_close(moe(X).hidden, teacher(X).hidden)

    demoting = MoELayer(
        teacher.router, CompressedExperts.of(teacher.experts, main_slots=None, demoted={2})
    )
    with demoting.recording() as recording:
        output = demoting(X)
    assert recording.load_E[2] == 0
    asked = (output.routing.experts_TK == 2).any(1)
    assert 0 < asked.sum() < len(X)
    same = output.hidden.isclose(teacher(X).hidden, rtol=1e-4, atol=1e-5).all(1)
    assert torch.equal(same, ~asked)
    with teacher.zeroed({2}):
        torch.testing.assert_close(output.hidden, teacher(X).hidden)


def test_what_a_demoted_expert_did_is_partly_recovered_on_clean_data() -> None:
    teacher = layer(alive=False, main_slots=K)
    target = teacher(X).hidden.detach()
    moe = MoELayer(
        teacher.router, CompressedExperts.of(teacher.experts, main_slots=None, demoted={2})
    )
    dropped = F.mse_loss(moe(X).hidden, target).item()
    optimiser = torch.optim.Adam(train_stand_ins_only(moe), lr=0.03)
    for _ in range(60):
        optimiser.zero_grad()
        F.mse_loss(moe(X).hidden, target).backward()
        optimiser.step()
    assert F.mse_loss(moe(X).hidden, target).item() < dropped
    untouched = [index for index in range(EXPERTS) if index != 2]
    assert (moe.experts.theta_gate[untouched] == 1).all()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"experts \[7\] of 5"):
        CompressedExperts(DIM, 10, EXPERTS, demoted={7})
    with pytest.raises(ValueError, match="no CompressedExperts"):
        train_stand_ins_only(torch.nn.Linear(2, 2))
