"""Unmodified models of transformers on the fused operation."""

from __future__ import annotations

import logging

import pytest
import torch

pytest.importorskip("transformers", minversion="5")

import transformers

from moe_core.kernels import Backend
from moe_core.kernels.in_transformers import use_fused_experts, watching
from tests.transformers_models import (
    FAMILIES,
    loss_and_gradients,
    model_of,
    token_ids,
)


@pytest.mark.parametrize("backend", ["grouped_mm", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_eager_path(family: str, backend: Backend) -> None:
    model = model_of(family)
    expected = loss_and_gradients(model)
    use_fused_experts(model, backend=backend)
    torch.testing.assert_close(loss_and_gradients(model), expected)


def test_what_is_seen_is_what_each_expert_adds() -> None:
    model = model_of("Olmoe")
    use_fused_experts(model)
    with watching(model) as seen:
        model(token_ids())
        loss_and_gradients(model)
    assert list(seen) == [f"model.layers.{layer}.mlp.experts" for layer in range(2)]
    before, after = seen["model.layers.1.mlp.experts"]
    assert before.experts_TK.shape == (14, 2)
    assert before.contribution_TK is not None
    assert (before.contribution_TK > 0).all()
    model(token_ids())
    assert len(seen["model.layers.1.mlp.experts"]) == 2
    assert after.attribution_TK is not None
    assert after.attribution_TK.abs().sum() > 0


def test_attribution_by_expert_is_that_of_all_its_answers() -> None:
    """An answer is linear in ``down_proj``, so both scale the same part of the loss."""
    model = model_of("Mixtral")
    _, expected = loss_and_gradients(model)
    use_fused_experts(model)
    with watching(model) as seen:
        loss_and_gradients(model)
    for name, (passed,) in seen.items():
        assert passed.attribution_TK is not None
        down = model.get_parameter(f"{name}.down_proj").detach()
        of_answers_E = (down * expected[f"{name}.down_proj"]).sum((1, 2))
        attribution_E = torch.zeros(len(down)).index_add(
            0, passed.experts_TK.flatten(), passed.attribution_TK.flatten()
        )
        torch.testing.assert_close(attribution_E, of_answers_E, rtol=1e-4, atol=1e-6)


def test_eager_takes_it_back() -> None:
    model = model_of("Olmoe")
    use_fused_experts(model)
    model.set_experts_implementation("eager")
    with (
        pytest.raises(ValueError, match="does not run on fused experts; call use_fused_experts"),
        watching(model),
    ):
        pass


def test_experts_built_otherwise_keep_their_own_way(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("Olmoe")
    expected = model(token_ids()).logits
    model.model.layers[1].mlp.experts.has_post_expert_norm = True
    model.model.layers[1].mlp.experts.post_expert_norm = torch.nn.Identity()
    with caplog.at_level(logging.WARNING, "moe_core"):
        use_fused_experts(model)
    assert [record.getMessage() for record in caplog.records] == [
        "experts model.layers.1.mlp.experts stay as they are: they normalise their answers"
    ]
    torch.testing.assert_close(model(token_ids()).logits, expected)
    with pytest.raises(ValueError, match="cannot be watched"), watching(model):
        pass


def test_a_model_without_experts_is_refused() -> None:
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ValueError, match="LlamaForCausalLM holds no experts"):
        use_fused_experts(transformers.LlamaForCausalLM(config))
