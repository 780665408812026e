"""Tiny models of transformers with experts, random weights, and tokens for them."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

_SIZES = {
    "vocab_size": 29,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}
FAMILIES = {
    "Olmoe": {"intermediate_size": 12, "num_experts": 5, "num_local_experts": 5},
    "Mixtral": {"intermediate_size": 12, "num_local_experts": 4},
    "Qwen3Moe": {
        "moe_intermediate_size": 12,
        "intermediate_size": 20,
        "num_experts": 6,
        "decoder_sparse_step": 1,
        "head_dim": 8,
    },
}


def model_of(family: str) -> PreTrainedModel:
    """A causal language model that computes its experts as transformers does, eagerly."""
    config = getattr(transformers, f"{family}Config")(**_SIZES, **FAMILIES[family])
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.set_experts_implementation("eager")
    return model.eval()


def token_ids() -> Tensor:
    return torch.randint(0, 29, (2, 7), generator=torch.Generator().manual_seed(0))


def loss_and_gradients(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the model as a language model on ``token_ids``."""
    model.zero_grad()
    loss = model(token_ids(), labels=token_ids()).loss
    loss.backward()
    return loss.detach(), {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
