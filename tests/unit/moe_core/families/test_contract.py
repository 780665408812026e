"""Every family of transformers, seen through ``ExpertView``, against formulas written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core.families import FAMILIES, FamilyLayer
from moe_core.recording import Record
from moe_core.view import ExpertView, MoELayerView
from tests.moe_families import (
    CONFIGS,
    DIM,
    EXPERTS,
    INNER,
    WITHOUT_BACKENDS,
    family_model,
)
from tests.moe_family_oracles import contributions, gate_weights, shared_answer

CASES = [
    (name, backend)
    for name in CONFIGS
    for backend in ((None,) if name in WITHOUT_BACKENDS else ("eager", "grouped_mm"))
]
HOOKS: dict[str, Callable[[MoELayerView], AbstractContextManager[object]]] = {
    "recording": lambda layer: layer.recording(),
    "averaging": lambda layer: layer.averaging(),
    "without": lambda layer: layer.without({0}),
    "zeroed": lambda layer: layer.zeroed({0}),
    "averaged": lambda layer: layer.averaged({0}, torch.ones(EXPERTS, DIM)),
    "forced": lambda layer: layer.forced(torch.arange(layer.top_k)[None]),
    "replaced": lambda layer: layer.replaced({0: {"down_proj": torch.zeros(DIM, INNER)}}),
}
CHANGES = sorted(HOOKS.keys() - {"recording", "averaging"})


@dataclass(repr=False)
class Bench:
    """One block of a tiny model, the layer that looks into it, and tokens to run.

    Attributes:
        x: (3, 7, width).
    """

    block: nn.Module
    layer: MoELayerView
    x: Tensor

    @property
    def x_TD(self) -> Tensor:
        return self.x.reshape(-1, DIM)

    def run(self) -> Tensor:
        """The block's answer, (tokens, width)."""
        y = self.block(self.x)
        return (y[0] if isinstance(y, tuple) else y).reshape(-1, DIM)

    def record(self) -> Record:
        with self.layer.recording() as recording:
            self.run()
        return recording.passes[0]

    def logits(self, cut: Iterable[int] = ()) -> Tensor:
        """Of the router, (tokens, experts); those of ``cut`` are -inf."""
        assert self.layer.router_weight is not None
        logits_TE = F.linear(self.x_TD, self.layer.router_weight, self.layer.router_bias)
        return logits_TE.index_fill(1, torch.tensor(sorted(cut), dtype=torch.long), -torch.inf)

    def dense(self, cut: Iterable[int] = ()) -> Tensor:
        """Gate weights, (tokens, experts); 0 where an expert does not run."""
        return gate_weights(self.block, self.logits(cut))

    def parts(
        self, dense_TE: Tensor, replaced: Mapping[int, Mapping[str, Tensor]] | None = None
    ) -> Tensor:
        """What every expert adds, (tokens, experts, width)."""
        own = [self.layer.expert(e) | dict((replaced or {}).get(e, {})) for e in range(EXPERTS)]
        return contributions(self.block, dense_TE, self.x_TD, own)

    def total(self, parts_TED: Tensor) -> Tensor:
        """The block's answer made of its parts, (tokens, width)."""
        shared = self.layer.shared_expert()
        if shared is None or FAMILIES[type(self.block).__name__].beside:
            return parts_TED.sum(1)
        return parts_TED.sum(1) + shared_answer(self.x_TD, shared)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(filter(None, case)))
def bench(request: pytest.FixtureRequest) -> Bench:
    name, backend = request.param
    model = family_model(name, backend=backend).requires_grad_(False)
    view = ExpertView.of(model)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 7, DIM, generator=generator)
    return Bench(model.get_submodule(view.names[-1]), view.layers[-1], x)


def close(actual: Tensor, expected: Tensor) -> None:
    """To 1e-6 of the largest."""
    largest = expected.abs().max().clamp(min=1)
    torch.testing.assert_close(actual / largest, expected / largest, rtol=0, atol=1e-6)


def test_canonical_experts_make_up_the_layer(bench: Bench) -> None:
    close(bench.run(), bench.total(bench.parts(bench.dense())))


def test_a_recording_holds_what_the_router_decided(bench: Bench) -> None:
    record, dense_TE = bench.record(), bench.dense()
    close(_dense(record.experts_TK, record.weights_TK), dense_TE)
    sigmoid = FAMILIES[type(bench.block).__name__].sigmoid
    close(record.probs_TE, bench.logits().sigmoid() if sigmoid else bench.logits().softmax(1))
    assert torch.equal(record.load_E, (dense_TE > 0).sum(0))
    assert record.weights_TK.shape == (len(bench.x_TD), bench.layer.top_k)
    norms_TE = bench.parts(dense_TE).norm(dim=-1)
    close(record.contribution_TK, norms_TE.gather(1, record.experts_TK))


def test_recording_changes_nothing(bench: Bench) -> None:
    before = bench.run()
    with bench.layer.recording(), bench.layer.averaging():
        assert torch.equal(bench.run(), before)


@pytest.mark.parametrize("cut", [{1}, {0, 1, 3}], ids=str)
def test_routing_around_experts(bench: Bench, cut: set[int]) -> None:
    with bench.layer.without(cut):
        answer, record = bench.run(), bench.record()
    assert record.load_E[sorted(cut)].sum() == 0
    assert record.probs_TE[:, sorted(cut)].sum() == 0
    dense_TE = bench.dense(cut)
    close(answer, bench.total(bench.parts(dense_TE)))
    close(_dense(record.experts_TK, record.weights_TK), dense_TE)


def test_a_lone_expert_takes_every_token(bench: Bench) -> None:
    with bench.layer.without({0, 1, 3}):
        assert bench.record().load_E.tolist() == [0, 0, len(bench.x_TD), 0]


def test_silent_experts_leave_the_others_as_they_are(bench: Bench) -> None:
    parts_TED = bench.parts(bench.dense())
    parts_TED[:, [1, 2]] = 0
    with bench.layer.zeroed({1, 2}):
        answer, record = bench.run(), bench.record()
    close(answer, bench.total(parts_TED))
    assert record.load_E[[1, 2]].sum() == 0


def test_a_layer_in_which_nobody_answers(bench: Bench) -> None:
    nothing = torch.zeros(len(bench.x_TD), EXPERTS, DIM)
    with bench.layer.zeroed(range(EXPERTS)), bench.layer.averaged({0}, torch.ones(EXPERTS, DIM)):
        answer, record = bench.run(), bench.record()
    close(answer, bench.total(nothing))
    assert (record.experts_TK < 0).all()
    assert record.contribution_TK.sum() == 0


def test_experts_answer_with_their_mean(bench: Bench) -> None:
    dense_TE = bench.dense()
    parts_TED = bench.parts(dense_TE)
    busiest = int((dense_TE > 0).sum(0).argmax())
    ran = dense_TE[:, busiest] > 0
    mean = (parts_TED[ran, busiest] / dense_TE[ran, busiest, None]).mean(0)
    with bench.layer.averaging() as means:
        bench.run()
    torch.testing.assert_close(means.mean_ED[busiest], mean, rtol=1e-5, atol=1e-5)
    parts_TED[:, busiest] = dense_TE[:, busiest, None] * means.mean_ED[busiest]
    with bench.layer.averaged({busiest}, means.mean_ED):
        close(bench.run(), bench.total(parts_TED))


@pytest.mark.parametrize("weight", [None, 0.25])
def test_slots_are_forced(bench: Bench, weight: float | None) -> None:
    before = bench.record()
    wanted_TK = torch.tensor([[2, 0]])[:, : bench.layer.top_k]
    given = None if weight is None else torch.full((1, 1), weight)
    weights_TK = before.weights_TK if given is None else given.expand_as(before.weights_TK)
    dense_TE = _dense(wanted_TK.expand_as(before.experts_TK), weights_TK)
    with bench.layer.forced(wanted_TK, given):
        answer, record = bench.run(), bench.record()
    close(answer, bench.total(bench.parts(dense_TE)))
    close(_dense(record.experts_TK, record.weights_TK), dense_TE)


def test_minus_one_leaves_a_slot_to_the_router(bench: Bench) -> None:
    before, record = bench.run(), bench.record()
    unused = min(set(range(EXPERTS)) - set(record.experts_TK[4].tolist()))
    wanted_TK = torch.full_like(record.experts_TK, -1)
    wanted_TK[4, 0] = unused
    with bench.layer.forced(wanted_TK):
        answer = bench.run()
    assert not torch.allclose(answer[4], before[4])
    others = torch.arange(len(before)) != 4
    close(answer[others], before[others])


def test_replaced_experts_come_back_bit_for_bit(bench: Bench) -> None:
    before, state = bench.run(), {k: v.clone() for k, v in bench.block.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    other = {
        index: {
            name: torch.randn(tensor.shape, generator=generator)
            for name, tensor in bench.layer.expert(index).items()
        }
        for index in (0, 2)
    }
    with bench.layer.replaced(other):
        close(bench.run(), bench.total(bench.parts(bench.dense(), other)))
        assert torch.equal(bench.layer.expert(2)["up_proj"], other[2]["up_proj"])
    assert torch.equal(bench.run(), before)
    assert all(torch.equal(bench.block.state_dict()[name], old) for name, old in state.items())


def test_a_mistake_replaces_nothing(bench: Bench) -> None:
    before, fine = bench.run(), {"down_proj": torch.zeros(DIM, INNER)}
    for mistake in ({"w9": torch.zeros(1)}, {"down_proj": torch.zeros(INNER, DIM)}):
        with (
            pytest.raises(ValueError, match="w9|down_proj"),
            bench.layer.replaced({0: fine, 1: mistake}),
        ):
            pass
    assert torch.equal(bench.run(), before)


@pytest.mark.parametrize("name", HOOKS)
def test_the_block_is_as_before_even_after_an_exception(bench: Bench, name: str) -> None:
    before, state = bench.run(), {k: v.clone() for k, v in bench.block.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), HOOKS[name](bench.layer):  # noqa: PT012
        bench.run()
        raise RuntimeError("inside")
    assert torch.equal(bench.run(), before)
    assert all(torch.equal(bench.block.state_dict()[key], old) for key, old in state.items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in bench.block.modules())


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_changes_the_answer(bench: Bench, name: str) -> None:
    before = bench.run()
    with HOOKS[name](bench.layer):
        assert not torch.allclose(bench.run(), before)


@pytest.mark.parametrize("outer", HOOKS)
def test_hooks_nest(bench: Bench, outer: str) -> None:
    with HOOKS[outer](bench.layer):
        once = bench.run()
        for inner in HOOKS.values():
            with inner(bench.layer):
                bench.run()
            assert torch.equal(bench.run(), once)


def test_changes_end_in_any_order(bench: Bench) -> None:
    before, first, second = bench.run(), ExitStack(), ExitStack()
    with bench.layer.zeroed({1}):
        alone = bench.run()
    first.enter_context(bench.layer.without({0}))
    second.enter_context(bench.layer.zeroed({1}))
    first.close()
    assert torch.equal(bench.run(), alone)
    second.close()
    assert torch.equal(bench.run(), before)


def test_no_expert_must_be_left_out_that_does_not_exist(bench: Bench) -> None:
    with pytest.raises(ValueError, match="no such index"), bench.layer.without({EXPERTS}):
        pass
    with (
        bench.layer.without({0, 1}),
        pytest.raises(ValueError, match="leave at least one"),
        bench.layer.without({2, 3}),
    ):
        pass


def test_gradients_reach_who_ran_and_nobody_else(bench: Bench) -> None:
    block = copy.deepcopy(bench.block).requires_grad_(True)
    family = FAMILIES[type(block).__name__]
    layer = FamilyLayer(family, block, None)
    x = bench.x.clone().requires_grad_()
    with layer.without({0}), layer.zeroed({1}):
        Bench(block, layer, x).run().square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    row = layer.router_weight.grad
    assert row is None or row[0].abs().max() == 0, "an excluded expert's row decides nothing"
    for parameter in block.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    touched = [sum(part.abs().sum() for part in layer.expert(e).values()) > 0 for e in range(4)]
    assert touched == [False, False, True, True]


def _dense(experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Gate weights by expert, (tokens, experts)."""
    dense_TE = weights_TK.new_zeros(len(weights_TK), EXPERTS)
    return dense_TE.scatter_add(1, experts_TK.clamp(min=0), weights_TK)
