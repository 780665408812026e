from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.ffn import SwiGLU
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK
from tests.moe_layers import DIM, EXPERTS, INNER, layer, token_by_token, tokens


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_a_layer_is_the_weighted_sum_of_its_experts(top_k: int) -> None:
    made, x_TD = layer(top_k), tokens()
    hidden, routing = made(x_TD)
    assert routing.experts_TK.shape == (len(x_TD), top_k)
    torch.testing.assert_close(hidden, token_by_token(made, x_TD, routing))


def test_gradients_of_the_whole_layer_in_fp64() -> None:
    made, x_TD = layer(), tokens(5).requires_grad_()
    weights = [part.detach().clone().requires_grad_() for part in made.parameters()]
    names = [name for name, _ in made.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        called = torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (x,))
        return called.hidden

    assert torch.autograd.gradcheck(run, (x_TD, *weights))


def test_leading_dimensions_and_strides_do_not_matter() -> None:
    made, x_TD = layer(), tokens(12)
    flat = made(x_TD).hidden
    assert torch.equal(made(x_TD.view(3, 4, DIM)).hidden, flat.view(3, 4, DIM))
    strided = torch.empty(DIM, 12, dtype=x_TD.dtype).T.copy_(x_TD)
    assert not strided.is_contiguous()
    torch.testing.assert_close(made(strided).hidden, flat)


def test_no_tokens_give_no_output() -> None:
    assert layer()(tokens(0)).hidden.shape == (0, DIM)


def test_shared_experts_are_added_to_every_token() -> None:
    made, x_TD = layer(), tokens()
    alone = made(x_TD).hidden
    made.shared = SwiGLU(DIM, INNER, gated=True).double()
    torch.testing.assert_close(made(x_TD).hidden, alone + made.shared(x_TD))


def test_the_gate_of_a_shared_expert_scales_it() -> None:
    shared, x_TD = SwiGLU(DIM, INNER, gated=True).double(), tokens()
    plain = SwiGLU(DIM, INNER).double()
    plain.load_state_dict(shared.state_dict() | {}, strict=False)
    torch.testing.assert_close(shared(x_TD), plain(x_TD) / 2)  # a gate of zeros is one half


def test_bf16_in_bf16_out_and_the_routing_in_fp32() -> None:
    made, x_TD = layer(dtype=torch.bfloat16), tokens(dtype=torch.bfloat16)
    hidden, routing = made(x_TD)
    assert hidden.dtype == torch.bfloat16
    assert {routing.weights_TK.dtype, routing.probs_TE.dtype} == {torch.float32}
    wide = made.double()
    expected = token_by_token(wide, x_TD.double(), routing)
    torch.testing.assert_close(hidden.double(), expected, rtol=2e-2, atol=5e-2)


def test_autocast_leaves_the_routing_in_fp32() -> None:
    made, x_TD = layer(dtype=torch.float32), tokens(dtype=torch.float32)
    plain = made(x_TD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = made(x_TD)
    assert torch.equal(cast.routing.probs_TE, plain.routing.probs_TE)
    torch.testing.assert_close(cast.hidden, plain.hidden)


def test_the_state_has_the_names_and_shapes_of_transformers() -> None:
    made = MoELayer(SoftmaxTopK(DIM, EXPERTS), SwiGLUExperts(DIM, INNER, EXPERTS))
    assert {name: tuple(part.shape) for name, part in made.state_dict().items()} == {
        "router.weight": (EXPERTS, DIM),
        "experts.gate_up_proj": (EXPERTS, 2 * INNER, DIM),
        "experts.down_proj": (EXPERTS, DIM, INNER),
    }


def test_a_loaded_tensor_is_used_without_a_copy() -> None:
    made, loaded = layer(), torch.randn(EXPERTS, 2 * INNER, DIM, dtype=torch.float64)
    made.load_state_dict({"experts.gate_up_proj": loaded}, strict=False, assign=True)
    assert made.expert(1)["gate_proj"].data_ptr() == loaded[1].data_ptr()


def test_a_broken_expert_spoils_only_the_tokens_that_go_there() -> None:
    made, x_TD = layer(), tokens().requires_grad_()
    whole, routing = made(x_TD)
    with made.replaced({2: {"down_proj": torch.full((DIM, INNER), torch.nan)}}):
        hidden = made(x_TD).hidden
        there = (routing.experts_TK == 2).any(1)
        assert 0 < there.sum() < len(x_TD)
        assert torch.equal(hidden[~there], whole[~there])
        hidden[~there].sum().backward()
    assert x_TD.grad is not None
    assert x_TD.grad[~there].isfinite().all()


def test_a_router_for_another_number_of_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="among 3 experts, there are 4"):
        MoELayer(SoftmaxTopK(DIM, 3), SwiGLUExperts(DIM, INNER, 4))


def test_the_same_input_gives_the_same_bits() -> None:
    def run() -> list[Tensor]:
        made, x_TD = layer(dtype=torch.float32), tokens(dtype=torch.float32).requires_grad_()
        hidden = made(x_TD).hidden
        hidden.sum().backward()
        return [hidden, x_TD.grad, *(part.grad for part in made.parameters())]

    torch.use_deterministic_algorithms(True)
    try:
        assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
