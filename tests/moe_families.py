"""A tiny random model of every family that ``moe_core.families`` knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

DIM, INNER, EXPERTS, VOCABULARY = 16, 24, 4, 40

_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIM,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
_NAMED = {"num_experts": EXPERTS, "moe_intermediate_size": INNER}
_LOCAL = {"num_local_experts": EXPERTS}
_LATENT = {  # attention of DeepSeek
    "head_dim": 4,  # of the rotary part
    "n_routed_experts": EXPERTS,
    "moe_intermediate_size": INNER,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "routed_scaling_factor": 1.5,
}
_GROUPS = {"n_group": 2, "topk_group": 1}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", _LOCAL),
    "olmoe": ("Olmoe", {"num_experts": EXPERTS}),
    "qwen2": (
        "Qwen2Moe",
        {**_NAMED, "shared_expert_intermediate_size": 10, "norm_topk_prob": False},
    ),
    "qwen3": ("Qwen3Moe", {**_NAMED, "norm_topk_prob": True}),
    "deepseek-v2": ("DeepseekV2", {**_LATENT, "topk_method": "greedy"}),
    "deepseek-v2-groups": (
        "DeepseekV2",
        {**_LATENT, **_GROUPS, "topk_method": "group_limited_greedy"},
    ),
    "deepseek-v3": ("DeepseekV3", {**_LATENT, "n_group": 1, "topk_group": 1}),
    "deepseek-v3-groups": ("DeepseekV3", {**_LATENT, **_GROUPS, "norm_topk_prob": False}),
    "glm4": (
        "Glm4Moe",
        {**_LATENT, "n_group": 1, "topk_group": 1, "use_qk_norm": False},
    ),
    "gpt-oss": ("GptOss", _LOCAL),
    "phi": ("Phimoe", _LOCAL),
    "granite": ("GraniteMoe", _LOCAL),
    "granite-shared": ("GraniteMoeShared", {**_LOCAL, "shared_intermediate_size": 10}),
    "granite-hybrid": (
        "GraniteMoeHybrid",
        {
            **_LOCAL,
            "shared_intermediate_size": 10,
            "layer_types": ["attention"] * 2,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
        },
    ),
    "llama4": (
        "Llama4",
        {**_LOCAL, "intermediate_size_mlp": 20, "interleave_moe_layer_step": 1},
    ),
    "llama4-top1": (
        "Llama4",
        {
            **_LOCAL,
            "intermediate_size_mlp": 20,
            "interleave_moe_layer_step": 2,
            "num_experts_per_tok": 1,
        },
    ),
    "switch": (
        "SwitchTransformers",
        {
            "vocab_size": VOCABULARY,
            "d_model": DIM,
            "d_kv": 8,
            "d_ff": INNER,
            "num_layers": 2,
            "num_heads": 2,
            "num_experts": EXPERTS,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "expert_capacity": 64,
            "router_bias": True,
            "dropout_rate": 0.0,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
    ),
}

WITHOUT_BACKENDS = {"llama4", "llama4-top1", "switch"}
"""transformers knows one way only to run their experts."""


def family_model(name: str, *, backend: str | None = None, seed: int = 0) -> nn.Module:
    """In evaluation, with the default experts backend where none is named.

    Weights are large enough that experts differ visibly, biases of all kinds included.
    """
    transformers = pytest.importorskip("transformers")
    kind, sizes = CONFIGS[name]
    stem = {"Llama4": "Llama4Text"}.get(kind, kind)
    encodes = kind == "SwitchTransformers"
    config = getattr(transformers, f"{stem}Config")(**({} if encodes else _DECODER) | sizes)
    model_class = getattr(
        transformers, f"{kind}{'ForConditionalGeneration' if encodes else 'ForCausalLM'}"
    )
    chosen = {"experts_implementation": backend} if backend else {}
    model: nn.Module = model_class._from_config(config, **chosen)
    generator = torch.Generator().manual_seed(seed)
    for path, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "norm" not in path:
            std = 0.1 if path.endswith("correction_bias") else 0.3
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)
    return model.eval()


def run(model: nn.Module, ids: Tensor | None = None) -> Tensor:
    """Logits of a small batch, (batch, time, vocabulary)."""
    ids = batch() if ids is None else ids
    more = {"decoder_input_ids": ids.flip(1)} if hasattr(model, "encoder") else {}
    logits: Tensor = model(input_ids=ids, **more).logits
    return logits


def batch(count: int = 3, length: int = 7, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (count, length), generator=generator)
