from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moe_core.lm import DecoderConfig, FeedForward, generate
from moe_core.lm.decoder import Decoder
from moe_core.lora import LoraSettings
from moe_core.view import ExpertView
from tests.small_decoders import config, decoder, feedforward, prompts


def test_a_token_sees_nothing_of_later_ones() -> None:
    model, ids = decoder(), prompts()
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 31
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_with_lengths_a_language_model_answers_for_the_last_token_of_each_text() -> None:
    model, ids = decoder(), prompts()
    every, last = model(ids).logits, model(ids, torch.tensor([9, 4])).logits
    torch.testing.assert_close(last, torch.stack([every[0, 8], every[1, 3]]))


def test_a_way_to_normalise_queries_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'each'"):
        replace(config(), qk_norm="each")


def test_the_order_of_earlier_tokens_matters() -> None:
    model, ids = decoder(), prompts()
    swapped = ids[:, [1, 0, *range(2, 9)]]
    assert not torch.allclose(model(ids).logits[:, -1], model(swapped).logits[:, -1])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_generation_from_memory_writes_what_the_whole_text_would(kv_heads: int) -> None:
    model = decoder(replace(config(), num_kv_heads=kv_heads))
    ids = prompts()
    written = generate(model, ids, 6)
    for _ in range(6):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(written, ids[:, -6:])
    assert generate(model, ids, 0).shape == (2, 0)


def test_what_cannot_be_continued_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(decoder(), prompts()[:, :0], 1)
    with pytest.raises(ValueError, match="classifier"):
        generate(decoder(replace(config(), classes=("a", "b"))), prompts(), 1)


def test_auxiliary_losses_of_all_layers_add_up() -> None:
    model = decoder(config(feedforward(balance_coef=0.5)))
    output = model(prompts())
    assert len(output.routings) == 2
    each = [routing.aux_loss.item() for routing in output.routings]
    assert all(loss > 0 for loss in each)
    assert output.aux_loss.item() == pytest.approx(sum(each))


def test_a_dense_decoder_has_no_routing_and_no_auxiliary_loss() -> None:
    output = decoder(config(FeedForward(experts="dense", inner_dim=12)))(prompts())
    assert output.routings == ()
    assert output.aux_loss.item() == 0


def test_layers_may_differ() -> None:
    other = {1: feedforward("hash", num_experts=3)}
    model = decoder(replace(config(), other_ffn=other))
    assert [layer.num_experts for layer in model.moe_layers()] == [4, 3]
    assert model(prompts()).logits.isfinite().all()
    assert ExpertView.of(model).names == ("layers.0.mlp", "layers.1.mlp")


def test_padding_behind_a_text_does_not_change_its_class() -> None:
    model = decoder(replace(config(), classes=("a", "b", "c")))
    ids = prompts(1, 5)
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    logits = model(padded, torch.tensor([5])).logits
    assert logits.shape == (1, 3)
    torch.testing.assert_close(logits, model(ids).logits)


def test_low_rank_updates_leave_the_attention_frozen() -> None:
    model = Decoder(replace(config(), attention_lora=LoraSettings(rank=2)))
    model(prompts()).logits.sum().backward()
    attention = model.layers[0].self_attn
    assert attention.q_proj.base.weight.grad is None
    assert attention.q_proj.lora_B.grad.any()


@pytest.mark.parametrize(
    ("ffn", "words"),
    [
        (feedforward("nonsense"), "no router 'nonsense'; there are base,"),
        (feedforward(experts="nonsense"), "no kind of experts 'nonsense'"),
        (feedforward(top=2), "SoftmaxTopK has no options \\['top'\\]; it has top_k,"),
        (feedforward(top_k=9), "top_k=9 of 4 experts"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(ffn: FeedForward, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Decoder(config(ffn))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 20},
        {"num_kv_heads": 3},
        {"num_layers": 0},
        {"other_ffn": {2: feedforward()}},
        {"classes": ("one",)},
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        DecoderConfig(**{"dim": 16, "num_layers": 2, "num_heads": 4, **wrong})
