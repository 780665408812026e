"""Folders of our own, and those that transformers opens; it is part of the extra ``dev``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from moe_core.lm import (
    Decoder,
    DecoderConfig,
    FeedForward,
    export_decoder,
    load_decoder,
    save_decoder,
)
from moe_core.lora import LoraSettings
from tests.small_decoders import config, decoder, feedforward, prompts

DENSE_LAYERS = FeedForward(experts="dense", inner_dim=12)

ARCHITECTURES = pytest.mark.parametrize(
    ("made_of", "kind"),
    [
        (config(feedforward(top_k=2, normalised=False)), "olmoe"),
        (replace(config(feedforward(top_k=3)), rope_theta=500.0, norm_eps=1e-3), "olmoe"),
        (replace(config(feedforward(top_k=2)), qk_norm=False, rope_theta=77.0), "mixtral"),
        (replace(config(feedforward(top_k=1)), qk_norm=False, num_kv_heads=1), "mixtral"),
        (replace(config(feedforward(top_k=2)), qk_norm="per-head", rope_theta=77.0), "qwen3_moe"),
        (replace(config(feedforward(normalised=False)), qk_norm="per-head"), "qwen3_moe"),
        (replace(config(DENSE_LAYERS), qk_norm=False, rope_theta=77.0), "llama"),
    ],
    ids=[
        "olmoe",
        "olmoe-normalised",
        "mixtral",
        "mixtral-one-expert",
        "qwen3",
        "qwen3-plain",
        "llama",
    ],
)


def logits_there(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(prompts()).logits


@ARCHITECTURES
def test_transformers_computes_the_same(made_of: DecoderConfig, kind: str, tmp_path: Path) -> None:
    model = decoder(made_of)
    assert save_decoder(model, tmp_path) == kind
    torch.testing.assert_close(logits_there(tmp_path), model(prompts()).logits, atol=1e-5, rtol=0)


@ARCHITECTURES
@pytest.mark.parametrize("stacked", [False, True], ids=["per-expert", "stacked"])
def test_what_transformers_saved_computes_the_same_here(
    made_of: DecoderConfig, kind: str, stacked: bool, tmp_path: Path
) -> None:
    save_decoder(decoder(made_of), tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", save_original_format=not stacked)
    assert theirs.config.model_type == kind
    model = load_decoder(tmp_path / "theirs")
    assert not model.training
    torch.testing.assert_close(model(prompts()).logits, logits_there(tmp_path / "ours"))


def test_shards_are_read(tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    torch.testing.assert_close(
        load_decoder(tmp_path / "shards")(prompts()).logits, decoder()(prompts()).logits
    )


def test_experts_of_chains_are_exported_as_what_they_compute(tmp_path: Path) -> None:
    model = decoder(config(feedforward(experts="mpo")))
    assert export_decoder(model, tmp_path / "exported") == "olmoe"
    torch.testing.assert_close(
        logits_there(tmp_path / "exported"), model(prompts()).logits, atol=1e-5, rtol=0
    )
    assert save_decoder(model, tmp_path / "saved") == "moe_core"
    assert load_decoder(tmp_path / "saved").config == model.config


@pytest.mark.parametrize(
    "made_of",
    [
        config(feedforward("loss-free")),
        config(feedforward("skywork", experts="compressed")),
        config(replace(feedforward(), shared_dim=8)),
        config(DENSE_LAYERS),
        replace(config(DENSE_LAYERS), qk_norm=False, other_ffn={0: feedforward()}),
        replace(
            config(DENSE_LAYERS), qk_norm=False, other_ffn={0: replace(DENSE_LAYERS, inner_dim=5)}
        ),
        replace(config(), classes=("cat", "dog")),
        replace(config(), attention_lora=LoraSettings(rank=2)),
        replace(config(), other_ffn={1: feedforward("hash", num_experts=3)}),
        replace(config(feedforward(normalised=False)), qk_norm=False),
    ],
    ids=[
        *("router", "experts", "shared", "dense-qk-norm", "some-dense", "widths"),
        *("classes", "lora", "differ", "gates"),
    ],
)
def test_what_transformers_lacks_is_kept_in_a_format_of_our_own(
    made_of: DecoderConfig, tmp_path: Path
) -> None:
    model = decoder(made_of)
    with pytest.raises(ValueError, match="export"):
        export_decoder(model, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    assert save_decoder(model, tmp_path) == "moe_core"
    again = load_decoder(tmp_path)
    assert again.config == made_of
    assert torch.equal(again(prompts()).logits, model(prompts()).logits)


def damage(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is none of olmoe, mixtral, qwen3_moe"),
        ({"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"mlp_only_layers": [0]}, "dense layers among others"),
        ({"decoder_sparse_step": 2}, "dense layers among others"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type='yarn'"),
        ({"num_experts": 5}, "has no tensor layers.0.mlp.experts.4"),
        ({"intermediate_size": 13}, "do not fit"),
        ({"hidden_size": 10**9}, "do not fit"),
        ({"num_hidden_layers": 10**9}, "has no tensor layers.2"),
        ({"intermediate_size": 2**62}, "."),
        ({"hidden_size": "wide"}, "lacks a setting or has it wrong"),
        ({"vocab_size": 31.0}, "whole numbers"),
        ({"num_attention_heads": 0}, "lacks a setting or has it wrong"),
        ({"rope_parameters": 3}, "lacks a setting or has it wrong"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    save_decoder(decoder(), tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(ValueError, match=words):
        load_decoder(tmp_path)


def test_shards_outside_the_folder_are_refused(tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="not a file of the folder"):
        load_decoder(tmp_path / "model")


def test_files_that_are_not_what_they_say_are_refused(tmp_path: Path) -> None:
    model = decoder(config(feedforward("loss-free")))
    save_decoder(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_decoder(tmp_path)
    save_decoder(model, tmp_path)
    damage(tmp_path, decoder={"depth": 2})
    with pytest.raises(ValueError, match="no settings \\['depth'\\]"):
        load_decoder(tmp_path)
    (tmp_path / "config.json").write_text("no", encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON"):
        load_decoder(tmp_path)


def test_options_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    save_decoder(decoder(config(feedforward("loss-free"))), tmp_path)
    document = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    document["decoder"]["ffn"]["router_options"] = {"top_k": "two"}
    damage(tmp_path, **document)
    with pytest.raises(ValueError, match="LossFreeRouter takes no such options"):
        load_decoder(tmp_path)


def test_an_exported_decoder_keeps_its_precision(tmp_path: Path) -> None:
    model: Decoder = decoder().to(torch.bfloat16)
    save_decoder(model, tmp_path)
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
