"""What is put in an expert's place, in every family of transformers and in moe_core's layers."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from badexpert.errors import AuditError
from badexpert.repairing.ways import LOWEST, average, quarantine
from moe_core.experts import EXPERTS
from moe_core.experts.lora import LoraFFNExperts
from moe_core.layer import MoELayer
from moe_core.lora import LoraSettings
from moe_core.routers import ROUTERS
from moe_core.view import ExpertId, ExpertView
from tests.moe_families import CONFIGS, family_model, run

EXPERT = ExpertId(0, 1)
PASSED_OVER = {"deepseek-v3", "deepseek-v3-groups", "glm4", "gpt-oss", "switch"}
"""Families whose routers have a bias that decides who is chosen."""


def layer_of(router: str, experts: str = "swiglu", **options: bool) -> MoELayer:
    torch.manual_seed(0)
    layer = MoELayer(ROUTERS[router](16, 4, 2, **options), EXPERTS[experts](16, 24, 4)).eval()
    for parameter in layer.requires_grad_(False).parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def tokens() -> torch.Tensor:
    return torch.randn(40, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_quarantined_expert_adds_nothing_in_any_family(name: str) -> None:
    model = family_model(name).requires_grad_(False)
    view, before = ExpertView.of(model), run(model)
    ablation = view.without if name in PASSED_OVER else view.zeroed
    with ablation([EXPERT]):
        expected = run(model)
    assert not torch.allclose(before, expected)
    done = quarantine(view, [EXPERT])
    torch.testing.assert_close(run(model), expected)
    assert ("elsewhere" in done) == (name in PASSED_OVER)
    with view.layers[0].recording() as recording:
        run(model)
    chosen = any(bool((one.experts_TK == EXPERT.expert).any()) for one in recording.passes)
    assert chosen == (name not in PASSED_OVER)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss", "llama4", "switch"])
def test_the_mean_is_that_of_the_siblings_that_stay(name: str) -> None:
    model = family_model(name).requires_grad_(False)
    view, earlier = ExpertView.of(model), ExpertView.of(deepcopy(model))
    average(view, [EXPERT, ExpertId(0, 2)])
    for own in ("up_proj", "down_proj"):
        mean = (earlier.expert(ExpertId(0, 0))[own] + earlier.expert(ExpertId(0, 3))[own]) / 2
        for replaced in (EXPERT, ExpertId(0, 2)):
            torch.testing.assert_close(view.expert(replaced)[own], mean)
        for kept in (ExpertId(0, 0), ExpertId(0, 3), ExpertId(1, 1)):
            assert torch.equal(view.expert(kept)[own], earlier.expert(kept)[own])


def test_a_bias_that_only_selection_sees_turns_tokens_away() -> None:
    layer = layer_of("loss-free")
    with layer.without([1]):
        expected = layer(tokens()).hidden
    quarantine(ExpertView.of(nn.Sequential(layer)), [EXPERT])
    assert layer.selection_bias is not None
    assert layer.selection_bias[1] == LOWEST
    assert torch.isfinite(layer.selection_bias).all()
    torch.testing.assert_close(layer(tokens()).hidden, expected)


def test_an_expert_left_alone_with_too_few_others_still_adds_nothing() -> None:
    """With two of four experts left to fill two slots, no token may fall back on a third."""
    layer = layer_of("loss-free")
    quarantine(ExpertView.of(nn.Sequential(layer)), [ExpertId(0, at) for at in (0, 1, 2)])
    routing = layer(tokens()).routing
    alone = layer.expert(3)
    hidden = nn.functional.silu(tokens() @ alone["gate_proj"].T) * (tokens() @ alone["up_proj"].T)
    weight = routing.probs_TE[:, 3:]
    torch.testing.assert_close(layer(tokens()).hidden, weight * (hidden @ alone["down_proj"].T))


@pytest.mark.parametrize("normalise", [True, False])
def test_logits_that_are_normalised_are_not_bent_by_a_bias(normalise: bool) -> None:
    layer = layer_of("skywork", normalise=normalise)
    with layer.zeroed([1]):
        expected = layer(tokens()).hidden
    quarantine(ExpertView.of(nn.Sequential(layer)), [EXPERT])
    torch.testing.assert_close(layer(tokens()).hidden, expected)


def test_a_low_rank_expert_falls_back_to_the_network_that_it_updates() -> None:
    torch.manual_seed(0)
    experts = LoraFFNExperts(16, 24, 4, settings=LoraSettings(rank=2))
    layer = MoELayer(ROUTERS["softmax"](16, 4, 2), experts).requires_grad_(False).eval()
    for bank in experts.banks.parameters():
        nn.init.normal_(bank)
    view = ExpertView.of(nn.Sequential(layer))
    assert quarantine(view, [EXPERT]) == "its low-rank updates are 0, and tokens still reach it"
    for projection in experts.banks:
        assert not experts.delta(1, projection).any()
        assert experts.delta(2, projection).any()
    with pytest.raises(AuditError, match="plain linear maps"):
        average(view, [EXPERT])


@pytest.mark.parametrize("experts", ["compressed", "mpo"])
@pytest.mark.parametrize("way", [quarantine, average], ids=["quarantine", "mean"])
def test_experts_of_other_kinds_are_refused_and_kept(experts: str, way: object) -> None:
    layer = layer_of("softmax", experts)
    before = deepcopy(layer.state_dict())
    assert callable(way)
    with pytest.raises(AuditError, match="plain linear maps"):
        way(ExpertView.of(nn.Sequential(layer)), [EXPERT])
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
