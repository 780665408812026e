"""Attention with its mean answer, without its low-rank updates, with the weights of another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from moe_core.attention_blocks import (
    answering,
    attention_blocks,
    averaging,
    has_updates,
    reverted,
    without_updates,
)
from moe_core.lm import Decoder
from moe_core.lora import LoraLinear, LoraSettings
from tests.moe_families import family_model, run
from tests.small_victims import CONFIG

CONFIG_WITH_LORA = replace(CONFIG, vocab_size=40, attention_lora=LoraSettings(rank=2))
IDS = torch.arange(14).view(2, 7)


def decoder(*, lora: bool = False, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    model = Decoder(CONFIG_WITH_LORA if lora else replace(CONFIG, vocab_size=40)).eval()
    for part in model.modules():
        if isinstance(part, LoraLinear):
            torch.nn.init.normal_(part.lora_B)
    return model


@torch.no_grad()
def logits(model: Decoder) -> Tensor:
    return model(IDS).logits


@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3", "gpt-oss", "granite-hybrid"])
@torch.no_grad()
def test_every_layer_of_transformers_has_a_block(name: str) -> None:
    model = family_model(name)
    blocks = attention_blocks(model)
    assert len(blocks) == 2
    with averaging(blocks.values()) as means:
        before = run(model)
    with answering(blocks["model.layers.0.self_attn"], means[0].mean_D):
        changed = run(model)
    assert not torch.allclose(changed, before)
    assert torch.equal(run(model), before)


@torch.no_grad()
def test_the_mean_answer_is_that_of_all_tokens() -> None:
    model = decoder()
    block = attention_blocks(model)["layers.1.self_attn"]
    seen: list[Tensor] = []
    hook = block.register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    with averaging([block]) as [mean]:
        logits(model)
        model(IDS[:1, :3])
    hook.remove()
    tokens = torch.cat([output.flatten(0, 1) for output in seen])
    assert torch.allclose(mean.mean_D, tokens.mean(0), atol=1e-6)
    with answering(block, mean.mean_D):
        [answer] = {tuple(row.tolist()) for row in block(torch.randn(1, 5, 16), None)[0]}
    assert answer == pytest.approx(tuple(mean.mean_D.tolist()))


def test_without_its_updates_a_block_is_what_it_was_before() -> None:
    model, plain = decoder(lora=True), decoder()
    blocks = attention_blocks(model)
    assert all(map(has_updates, blocks.values()))
    assert not any(map(has_updates, attention_blocks(plain).values()))
    named = {name.replace(".base.", "."): t for name, t in model.state_dict().items()}
    plain.load_state_dict({name: t for name, t in named.items() if ".lora_" not in name})
    before = logits(model)
    assert not torch.allclose(before, logits(plain))
    with without_updates(blocks.values()):
        assert torch.allclose(logits(model), logits(plain), atol=1e-6)
    assert torch.equal(logits(model), before)


def test_a_block_takes_the_weights_of_another_and_gives_them_back() -> None:
    model, other = decoder(), decoder(seed=1)
    blocks, others = attention_blocks(model), attention_blocks(other)
    before = logits(model)
    with reverted({blocks[path]: others[path] for path in blocks}):
        inside = logits(model)
        for path, block in blocks.items():
            assert block.state_dict().keys() == others[path].state_dict().keys()
            assert torch.equal(block.q_proj.weight, others[path].q_proj.weight)
    assert not torch.allclose(inside, before)
    assert torch.equal(logits(model), before)


def test_the_mean_of_nothing_is_an_error() -> None:
    with (
        averaging(attention_blocks(decoder()).values()) as [first, _],
        pytest.raises(ValueError, match="nothing ran"),
    ):
        _ = first.mean_D
