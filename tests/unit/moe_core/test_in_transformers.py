"""Unmodified models of transformers on the fused operation."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

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


def test_attribution_is_how_the_loss_changes_with_the_gate() -> None:
    """Gate weights, or what they weigh, grow by a millionth: so does this part of the loss."""
    model = model_of("Mixtral").double()

    def loss() -> Tensor:
        # transformers' own loss is computed in fp32.
        return F.cross_entropy(model(token_ids()).logits.flatten(0, 1), token_ids().flatten())

    use_fused_experts(model)
    with watching(model) as seen:
        before = loss()
        before.backward()
    attribution = seen["model.layers.0.mlp.experts"][0].attribution_TK
    assert attribution is not None
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj *= 1 + 1e-6
        grown = (loss() - before) / 1e-6
    assert grown.item() == pytest.approx(attribution.sum().item(), rel=1e-3)


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
