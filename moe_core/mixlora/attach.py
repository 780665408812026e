"""Turn a dense transformer into a MixLoRA model, and read the adapter back out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core.drop_in import DropIn
from moe_core.experts.lora import PROJECTIONS, DenseFFN, LoraFFNExperts
from moe_core.layer import MoELayer
from moe_core.lora import LoraLinear
from moe_core.mixlora.adapter import MixLoraAdapter, attention_key, expert_key, gate_key
from moe_core.mixlora.config import MixLoraConfig
from moe_core.routers.mixlora import MixLoraRouter

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def attach(
    model: nn.Module, config: MixLoraConfig, tensors: Mapping[str, Tensor] | None = None
) -> list[nn.Parameter]:
    """Freeze a transformer and put LoRA into its attention and LoRA experts into its FFNs.

    The model is changed in place; its answers are not, as long as no tensors are given.

    Args:
        model: with the module names of Llama: ``layers`` of ``self_attn`` and ``mlp``, and in the
            latter ``gate_proj``, ``up_proj``, ``down_proj`` (Llama, Mistral, Qwen2, Gemma). FFNs of
            other names (Phi) can be read from their files, but not attached.
        tensors: of an adapter; without, the updates start at zero and routers at random.
    Returns:
        All parameters that take gradients now: the adapter, and nothing else.
    Raises:
        ValueError: the model has no such layers, or a tensor is missing or of another shape.
    """
    model.requires_grad_(False)
    for layer in transformer_layers(model):
        _attach_attention(layer.get_submodule("self_attn"), config)
        layer.mlp = DropIn(_mixture(layer.get_submodule("mlp"), config))
    if tensors is not None:
        _write(model, tensors)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapter_of(model: nn.Module, config: MixLoraConfig) -> MixLoraAdapter:
    """The adapter that is attached to a model, or that a ``moe_core.lm.Decoder`` was made with.

    Its tensors are views of the parameters.
    """
    return MixLoraAdapter(config, dict(_named(model)))


def transformer_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers in a model.

    Raises:
        ValueError: there is none whose members have ``self_attn`` and ``mlp``.
    """
    for part in model.modules():
        if isinstance(part, nn.ModuleList) and len(part) and _is_decoder_layer(part[0]):
            return part
    raise ValueError(f"{type(model).__name__} has no list of layers with self_attn and mlp")


def _is_decoder_layer(part: nn.Module) -> bool:
    return hasattr(part, "self_attn") and hasattr(part, "mlp")


def _attach_attention(attention: nn.Module, config: MixLoraConfig) -> None:
    for name, part in list(attention.named_children()):
        if name in config.targets and isinstance(part, nn.Linear):
            setattr(attention, name, LoraLinear(part, config.lora))


def _mixture(mlp: nn.Module, config: MixLoraConfig) -> MoELayer:
    parts = [getattr(mlp, name, None) for name in PROJECTIONS]
    if not all(isinstance(part, nn.Linear) for part in parts):
        raise ValueError(f"{type(mlp).__name__} lacks one of the linear maps {PROJECTIONS}")
    gate, up, down = (part for part in parts if isinstance(part, nn.Linear))
    ffn = DenseFFN(gate, up, down, _activation(mlp, config))
    dim, inner_dim = gate.in_features, gate.out_features
    experts = LoraFFNExperts(
        dim,
        inner_dim,
        config.num_experts,
        ffn=ffn,
        settings=config.experts(),
        targets=[name for name in PROJECTIONS if name in config.targets],
    )
    router = MixLoraRouter(
        dim, config.num_experts, config.top_k, balance_coef=config.router_aux_loss_coef
    )
    return MoELayer(router.to(gate.weight.device), experts)


def _activation(mlp: nn.Module, config: MixLoraConfig) -> Callable[[Tensor], Tensor]:
    if config.act_fn is None:
        act: Callable[[Tensor], Tensor] = getattr(mlp, "act_fn", F.silu)
        return act
    if config.act_fn not in _ACTIVATIONS:
        raise ValueError(f"act_fn {config.act_fn!r} is none of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[config.act_fn]


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the attached adapter under its published name."""
    for index, layer in enumerate(transformer_layers(model)):
        for name, part in layer.get_submodule("self_attn").named_children():
            if isinstance(part, LoraLinear):
                yield attention_key(index, name, "A"), part.lora_A
                yield attention_key(index, name, "B"), part.lora_B
        mlp = layer.get_submodule("mlp")
        moe = mlp.moe if isinstance(mlp, DropIn) else mlp
        if not isinstance(moe, MoELayer) or not isinstance(moe.router, MixLoraRouter):
            raise ValueError(f"layer {index} has no MixLoRA experts; attach an adapter first")
        yield gate_key(index), moe.router.weight
        for expert in range(moe.num_experts):
            for name, tensor in moe.expert(expert).items():
                projection, side = name.split(".lora_")
                yield expert_key(index, expert, projection, side), tensor


@torch.no_grad()
def _write(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = dict(_named(model))
    if own.keys() != tensors.keys():
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise ValueError(
            f"the adapter does not fit the model: {len(missing)} tensors are missing "
            f"{missing[:3]}, {len(unknown)} have no place {unknown[:3]}"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensors[name].shape)}; the model needs "
                f"{tuple(tensor.shape)}"
            )
        tensor.copy_(tensors[name])
