from __future__ import annotations

import pytest
import torch

from moe_core.ffn import SwiGLU
from moe_core.routers.top_k import SoftmaxTopK
from moe_core.upcycle import drop_upcycle, upcycle
from tests.moe_layers import DIM, EXPERTS, INNER, swiglu, tokens


@pytest.fixture
def dense() -> SwiGLU:
    torch.manual_seed(0)
    made = SwiGLU(DIM, INNER).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=0.3)
    return made


def test_the_dense_network_is_one_expert(dense: SwiGLU) -> None:
    x = tokens(1)
    torch.testing.assert_close(dense(x)[0], swiglu(x[0], dense.expert()))


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_upcycling_changes_nothing_at_first(dense: SwiGLU, top_k: int) -> None:
    layer, x_TD = upcycle(dense, SoftmaxTopK(DIM, EXPERTS, top_k)), tokens()
    torch.testing.assert_close(layer(x_TD).hidden, dense(x_TD), rtol=1e-12, atol=1e-12)


def test_upcycled_experts_share_no_memory(dense: SwiGLU) -> None:
    layer = upcycle(dense, SoftmaxTopK(DIM, EXPERTS))
    before = dense.down_proj.clone()
    with torch.no_grad():
        layer.expert(0)["down_proj"].zero_()
    assert torch.equal(dense.down_proj, before)
    assert torch.equal(layer.expert(1)["down_proj"], before)


def test_weights_that_are_not_renormalised_shrink_the_answer(dense: SwiGLU) -> None:
    layer, x_TD = upcycle(dense, SoftmaxTopK(DIM, EXPERTS, normalised=False)), tokens()
    assert layer(x_TD).hidden.norm() < dense(x_TD).norm()


def test_a_gated_network_is_refused() -> None:
    with pytest.raises(ValueError, match="gate of its own"):
        upcycle(SwiGLU(DIM, INNER, gated=True), SoftmaxTopK(DIM, EXPERTS))


def test_each_expert_forgets_other_units_in_all_three_matrices(dense: SwiGLU) -> None:
    layer = drop_upcycle(dense, SoftmaxTopK(DIM, EXPERTS), share=0.25)
    forgotten = []
    for index in range(EXPERTS):
        own = layer.expert(index)
        before = dense.expert()
        gate, up = ((own[name] != before[name]).all(1) for name in ("gate_proj", "up_proj"))
        down = (own["down_proj"] != before["down_proj"]).all(0)
        assert torch.equal(gate, up)
        assert torch.equal(gate, down)
        forgotten.append(tuple(gate.tolist()))
    assert {sum(units) for units in forgotten} == {3}
    assert len(set(forgotten)) > 1


def test_what_is_new_has_the_statistics_of_what_was_forgotten() -> None:
    torch.manual_seed(0)
    wide = SwiGLU(64, 512)
    with torch.no_grad():
        wide.down_proj.mul_(5).add_(1.0)
    own = drop_upcycle(wide, SoftmaxTopK(64, 2), share=1.0).expert(0)["down_proj"]
    assert own.mean().item() == pytest.approx(wide.down_proj.mean().item(), abs=0.01)
    assert own.std().item() == pytest.approx(wide.down_proj.std().item(), rel=0.05)


def test_forgetting_nothing_is_upcycling(dense: SwiGLU) -> None:
    layer, x_TD = drop_upcycle(dense, SoftmaxTopK(DIM, EXPERTS), share=0.0), tokens()
    torch.testing.assert_close(layer(x_TD).hidden, dense(x_TD))


def test_a_seed_decides_what_is_forgotten(dense: SwiGLU) -> None:
    def down(seed: int) -> torch.Tensor:
        return drop_upcycle(dense, SoftmaxTopK(DIM, EXPERTS), seed=seed).expert(0)["down_proj"]

    assert torch.equal(down(1), down(1))
    assert not torch.equal(down(1), down(2))


def test_an_impossible_share_is_refused(dense: SwiGLU) -> None:
    with pytest.raises(ValueError, match="share=1.5"):
        drop_upcycle(dense, SoftmaxTopK(DIM, EXPERTS), share=1.5)
