"""Low-rank updates on any model: what they add is what changed weights would."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from badexpert.extraction.low_rank import (
    note_of_what_stays,
    sharing_copy,
    size_of_updates,
    tuned_state,
    with_updates,
)
from moe_core.lm import Decoder, DecoderConfig, FeedForward
from moe_core.updates import Update
from tests.moe_families import batch, family_model, run

FAMILIES = ["mixtral", "qwen2", "deepseek-v3", "gpt-oss", "granite-shared", "switch", "llama4"]
"""One of each layout: plain, with a shared expert, behind groups, on its side with biases,
of three-dimensional weights beside the block, of a module per expert, and with a row for each."""


def decoder() -> nn.Module:
    torch.manual_seed(0)
    experts = FeedForward(num_experts=4, inner_dim=24, router_options={"top_k": 2})
    config = DecoderConfig(vocab_size=40, dim=16, num_layers=2, ffn=experts)
    return Decoder(config).requires_grad_(False).eval()


def model_of(name: str) -> nn.Module:
    if name == "moe_core":
        return decoder()
    return family_model(name, backend="grouped_mm" if name == "gpt-oss" else None)


def answers(name: str, model: nn.Module) -> Tensor:
    return model(batch()).logits if name == "moe_core" else run(model)


def merged(model: nn.Module, updated: nn.Module) -> nn.Module:
    """The model with every update added to the weight that it belongs to."""
    changed = copy.deepcopy(model)
    for path, update in updated.named_modules():
        if isinstance(update, Update):
            delta = update.B @ update.A
            owner, _, name = path.rpartition(".")
            part, name = changed.get_submodule(owner), WEIGHTS[name]
            weight = part.get_parameter(name)
            delta = delta if weight.shape == delta.shape else delta.transpose(1, 2)
            setattr(part, name, nn.Parameter(weight + delta))
    return changed


WEIGHTS = {"low_rank": "weight", "up": "gate_up_proj", "down": "down_proj"}


@pytest.mark.parametrize("name", ["moe_core", *FAMILIES])
@torch.no_grad()
def test_an_update_is_a_change_of_the_weights(name: str) -> None:
    model = model_of(name)
    before = answers(name, model)
    updated = with_updates(model, torch.Generator().manual_seed(0))
    torch.testing.assert_close(answers(name, updated), before, rtol=1e-4, atol=1e-5)
    for tensor in tuned_state(updated).values():
        tensor += 0.05 * torch.randn(tensor.shape)
    after = answers(name, updated)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, answers(name, merged(model, updated)), rtol=1e-3, atol=1e-4)
    assert torch.equal(answers(name, model), before)


def test_experts_of_an_unknown_form_are_named() -> None:
    model = decoder()
    assert note_of_what_stays(model) == ()
    model.add_module("more", Strange())
    assert note_of_what_stays(model) == ("the weights of Strange take no updates",)


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.all_experts = nn.Parameter(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("name", FAMILIES)
def test_experts_of_these_families_have_updates(name: str) -> None:
    model = family_model(name)
    assert note_of_what_stays(model) == ()
    updated = with_updates(model, torch.Generator())
    assert any("experts" in path for path in tuned_state(updated))


@pytest.mark.parametrize("name", ["moe_core", "deepseek-v3"])
def test_copies_hold_nothing_of_their_own_but_what_is_tuned(name: str) -> None:
    model = model_of(name).to(torch.bfloat16)
    model.requires_grad_(True)
    start = with_updates(model, torch.Generator().manual_seed(0))
    copies = [sharing_copy(start) for _ in range(4)]
    size = size_of_updates(model)
    assert memory(model, start) - memory(model) == 4 * size
    assert memory(model, start, *copies) - memory(model, start) == 4 * 4 * size
    tuned = {path for path, part in copies[0].named_parameters() if part.requires_grad}
    assert tuned == set(tuned_state(start))
    assert all(part.requires_grad for part in model.parameters())


def test_four_copies_of_a_wide_model_take_the_memory_of_one_and_a_fifth() -> None:
    ffn = FeedForward(experts="dense", inner_dim=2048)
    model = Decoder(DecoderConfig(vocab_size=40, dim=512, num_layers=1, ffn=ffn))
    start = with_updates(model, torch.Generator().manual_seed(0))
    copies = [sharing_copy(start) for _ in range(4)]
    assert memory(model) > 15e6
    assert memory(model, *copies) < 1.2 * memory(model)


def memory(*networks: nn.Module) -> int:
    """Bytes of all storages that networks hold, each counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    }
    return sum(storages.values())


@pytest.mark.parametrize("name", ["moe_core", "mixtral", "phi", "switch"])
def test_routers_take_no_updates(name: str) -> None:
    names = set(tuned_state(with_updates(model_of(name), torch.Generator())))
    assert any("experts" in name for name in names)
    assert any("q_proj" in name or ".q." in name for name in names)
    assert not any(".router." in name or ".gate.low_rank" in name for name in names)


def test_a_step_of_adam_moves_an_output_as_much_as_in_a_full_copy() -> None:
    """So a learning rate means the same for both."""
    moved = []
    for in_dim in (64, 1024):
        torch.manual_seed(0)
        x, base = torch.randn(1, in_dim), nn.Linear(in_dim, 8, bias=False)
        update = Update(in_dim, 8, torch.Generator().manual_seed(1))
        for part, tuned in ((base, base.weight), (update, update.B)):
            before = part(x)
            optimizer = torch.optim.Adam([tuned], lr=1e-3)
            part(x).sum().backward()
            optimizer.step()
            moved.append(float((part(x) - before).abs().mean().detach()))
    full, low, wider_full, wider_low = moved
    assert 0.6 < low / full < 1.7
    assert 0.6 < wider_low / wider_full < 1.7
