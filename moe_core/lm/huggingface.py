"""Decoders as transformers knows them, in the layout of their checkpoints: OLMoE, Mixtral and
Qwen3-MoE, or Llama for a dense one.

On disk every expert is a set of matrices of its own, which transformers 4 and 5 both read. In
memory, transformers 5 and this package stack them; a folder that was saved stacked is read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moe_core.experts.mpo import MPOExperts
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.lm.config import DENSE, PER_HEAD, DecoderConfig, FeedForward
from moe_core.lm.decoder import Decoder
from moe_core.routers.top_k import SoftmaxTopK


class NotExportableError(ValueError):
    """A part of the model has no counterpart in an architecture of transformers."""


class _Names(NamedTuple):
    """How an architecture with experts spells its parts.

    Attributes:
        experts_key: of the number of experts in its configuration.
        width_key: of the width inside one.
        block: of the feed-forward part on disk.
        gate, up, down: of an expert's matrices on disk.
    """

    experts_key: str
    width_key: str
    block: str
    gate: str
    up: str
    down: str


_DENSE = "llama"
_ARCHITECTURES = {
    "olmoe": "OlmoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    _DENSE: "LlamaForCausalLM",
}
_NAMES = {
    "olmoe": _Names("num_experts", "intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    "mixtral": _Names(
        "num_local_experts", "intermediate_size", "block_sparse_moe", "w1", "w3", "w2"
    ),
    "qwen3_moe": _Names(
        "num_experts", "moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"
    ),
}
_ROPE_THETA = {"olmoe": 10_000.0, "mixtral": 1_000_000.0, "qwen3_moe": 10_000.0, _DENSE: 10_000.0}
"""Where a configuration does not say, as in transformers."""

_LAYER = re.compile(r"layers\.(?P<layer>\d+)\.mlp\.(?P<rest>.+)")
_MAX_POSITIONS = 4096
"""Written for other tools; rotary positions themselves have no end."""


def kind_of(model: Decoder) -> str:
    """``olmoe``, ``mixtral``, ``qwen3_moe``, or ``llama`` for a dense model.

    Raises:
        NotExportableError: none of them can hold the model.
    """
    config = model.config
    if config.classes:
        raise NotExportableError(
            f"a classifier of {len(config.classes)} classes cannot be exported, only a language "
            "model: train one on text without labels"
        )
    if config.attention_lora is not None:
        raise NotExportableError(
            "low-rank updates of the attention cannot be exported: train without attention_lora"
        )
    layers = list(model.moe_layers())
    if not layers:
        return _dense_kind(config)
    if len(layers) != config.num_layers:
        raise NotExportableError(
            f"{config.num_layers - len(layers)} of {config.num_layers} layers are dense; export "
            "needs all alike: leave out other_ffn"
        )
    if len({_shape(layer) for layer in layers}) > 1:
        raise NotExportableError(
            "layers differ in experts or router; export needs them alike: leave out other_ffn"
        )
    if config.qk_norm:
        return "qwen3_moe" if config.qk_norm == PER_HEAD else "olmoe"
    if not _normalised(layers[0]):
        raise NotExportableError(
            "gate weights that do not sum to 1 can be exported as OLMoE or Qwen3-MoE only, which "
            "normalise queries and keys: set qk_norm, or normalised of the router"
        )
    return "mixtral"


def exported(model: Decoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and tensors by their names on disk.

    Raises:
        NotExportableError: see ``kind_of``.
    """
    kind = kind_of(model)
    state = model.state_dict()
    if kind != _DENSE:
        state = {name: tensor for name, tensor in state.items() if not _LAYER.match(name)}
    tensors = {_outer_name(name): tensor for name, tensor in state.items()}
    for at, layer in enumerate(model.moe_layers()):
        tensors |= dict(_layer_tensors(f"model.layers.{at}.{_NAMES[kind].block}", layer, kind))
    return _document(model, kind), tensors


def imported(
    document: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """The configuration and the tensors of a folder by our names.

    Raises:
        ValueError: the architecture is another one, or has a part that the decoder lacks.
    """
    kind = str(document.get("model_type"))
    if kind not in _ARCHITECTURES:
        raise ValueError(f"model_type {kind!r} is none of {', '.join(_ARCHITECTURES)}")
    try:
        config = _config(document, kind)
    except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"config.json of {kind} lacks a setting or has it wrong: {error}"
        ) from error
    named = {_inner_name(name): tensor for name, tensor in tensors.items()}
    if document.get("tie_word_embeddings") and "head.weight" not in named:
        named["head.weight"] = named["embed_tokens.weight"]
    return config, named if kind == _DENSE else _stacked(named, config, _NAMES[kind])


def _dense_kind(config: DecoderConfig) -> str:
    if config.qk_norm:
        raise NotExportableError(
            "a dense model that normalises queries and keys cannot be exported: set qk_norm = false"
        )
    if len({config.ffn_of(layer).inner_dim for layer in range(config.num_layers)}) > 1:
        raise NotExportableError(
            "layers differ in inner_dim; export needs them alike: leave out other_ffn"
        )
    return _DENSE


def _shape(layer: MoELayer) -> tuple[int, int, int, bool]:
    if type(layer.router) is not SoftmaxTopK:
        raise NotExportableError(
            f"{type(layer.router).__name__} cannot be exported; only the router 'softmax' can"
        )
    if type(layer.experts) not in (SwiGLUExperts, MPOExperts) or layer.shared is not None:
        raise NotExportableError(
            f"{type(layer.experts).__name__}, or shared experts, cannot be exported; only experts "
            "'swiglu' and 'mpo' can"
        )
    return layer.num_experts, layer.experts.inner_dim, layer.top_k, layer.router.normalised


def _normalised(layer: MoELayer) -> bool:
    return isinstance(layer.router, SoftmaxTopK) and layer.router.normalised


def _document(model: Decoder, kind: str) -> dict[str, Any]:
    config = model.config
    document = {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_of(0).inner_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": _MAX_POSITIONS,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": str(model.embed_tokens.weight.dtype).removeprefix("torch."),
    }
    if kind == _DENSE:
        return document
    layer = next(model.moe_layers())
    document |= {
        _NAMES[kind].experts_key: layer.num_experts,
        _NAMES[kind].width_key: config.ffn.inner_dim,
        "num_experts_per_tok": layer.top_k,
    }
    if kind == "qwen3_moe":
        # Its default width of a head is 128, whatever the model's.
        document["head_dim"] = config.head_dim
    return document | ({} if kind == "mixtral" else {"norm_topk_prob": _normalised(layer)})


def _layer_tensors(block: str, layer: MoELayer, kind: str) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(layer.router, SoftmaxTopK)
    experts = layer.experts.to_swiglu() if isinstance(layer.experts, MPOExperts) else layer.experts
    assert isinstance(experts, SwiGLUExperts)
    names = _NAMES[kind]
    yield f"{block}.gate.weight", layer.router.weight
    for expert in range(layer.num_experts):
        gate, up = experts.gate_up_proj[expert].chunk(2)
        yield f"{block}.experts.{expert}.{names.gate}.weight", gate
        yield f"{block}.experts.{expert}.{names.up}.weight", up
        yield f"{block}.experts.{expert}.{names.down}.weight", experts.down_proj[expert]


def _outer_name(name: str) -> str:
    return "lm_head.weight" if name == "head.weight" else f"model.{name}"


def _inner_name(name: str) -> str:
    if name == "lm_head.weight":
        return "head.weight"
    return name.removeprefix("model.").replace(".block_sparse_moe.", ".mlp.")


def _config(document: Mapping[str, Any], kind: str) -> DecoderConfig:
    for key in ("clip_qkv", "sliding_window", "attention_bias", "mlp_bias"):
        if document.get(key):
            raise ValueError(f"{key}={document[key]} has no counterpart in this decoder")
    heads, dim = document["num_attention_heads"], document["hidden_size"]
    if document.get("head_dim") not in (None, dim // heads):
        raise ValueError(f"head_dim={document['head_dim']}; this decoder needs {dim // heads}")
    if document.get("mlp_only_layers") or document.get("decoder_sparse_step", 1) != 1:
        raise ValueError("dense layers among others are not read from such a folder")
    if document.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act={document['hidden_act']!r}; this decoder has silu")
    return DecoderConfig(
        vocab_size=document["vocab_size"],
        dim=dim,
        num_layers=document["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=document.get("num_key_value_heads") or heads,
        ffn=_ffn(document, kind),
        rope_theta=_rope_theta(document, kind),
        norm_eps=document.get("rms_norm_eps", 1e-5),
        qk_norm=PER_HEAD if kind == "qwen3_moe" else kind == "olmoe",
    )


def _ffn(document: Mapping[str, Any], kind: str) -> FeedForward:
    if kind == _DENSE:
        return FeedForward(experts=DENSE, inner_dim=document["intermediate_size"])
    normalised = kind == "mixtral" or bool(document.get("norm_topk_prob", False))
    return FeedForward(
        num_experts=document.get("num_local_experts") or document["num_experts"],
        inner_dim=document[_NAMES[kind].width_key],
        router_options={"top_k": document["num_experts_per_tok"], "normalised": normalised},
    )


def _rope_theta(document: Mapping[str, Any], kind: str) -> float:
    # transformers 4 writes rope_theta and rope_scaling, transformers 5 one table for both.
    table = document.get("rope_parameters") or document.get("rope_scaling") or {}
    if (scaling := table.get("rope_type", "default")) != "default":
        raise ValueError(f"rope_type={scaling!r}; this decoder has plain rotary positions")
    return float(table.get("rope_theta") or document.get("rope_theta") or _ROPE_THETA[kind])


def _stacked(
    named: Mapping[str, Tensor], config: DecoderConfig, names: _Names
) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    single: dict[str, Tensor] = {}
    for name, tensor in named.items():
        if re.search(r"\.experts\.\d+\.", name):
            single[name] = tensor
        else:
            state[name.replace(".mlp.gate.", ".mlp.router.")] = tensor
    if not single:
        return state
    for at in range(config.num_layers):
        prefix = f"layers.{at}.mlp.experts."
        gate, up, down = (
            [_taken(single, f"{prefix}{e}.{part}.weight") for e in range(config.ffn.num_experts)]
            for part in (names.gate, names.up, names.down)
        )
        state[f"{prefix}gate_up_proj"] = torch.cat([torch.stack(gate), torch.stack(up)], dim=1)
        state[f"{prefix}down_proj"] = torch.stack(down)
    return state


def _taken(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"the checkpoint has no tensor {name}")
    return tensors[name]
