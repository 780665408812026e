"""Folders of tiny language models, as transformers and moe_core write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY = 40
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}
WORDS = ["<unk>", "</s>", *(f"w{index}" for index in range(VOCABULARY - 2))]
CHAT = (
    "{% for m in messages %}w1 {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} w2{% endif %}"
)


def transformers_folder(
    folder: Path,
    kind: str = "llama",
    head: str = "ForCausalLM",
    *,
    dtype: str = "float32",
    **over: Any,
) -> Path:
    """A random model, without a tokenizer.

    Args:
        kind: ``llama``, ``olmoe``, ``mixtral``, ``qwen3_moe``, ``bert`` and so on.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = transformers.CONFIG_MAPPING[kind](**{**TINY, **over})
    family = (
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        if head == "ForCausalLM"
        else transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    )
    torch.manual_seed(0)
    model = family[type(config)](config).to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder)
    return folder


def with_tokenizer(folder: Path, *, chat: bool = False) -> Path:
    """Put a tokenizer of whole words beside a model."""
    save_words(folder, WORDS)
    settings = {"eos_token": "</s>", "unk_token": "<unk>"}
    if chat:
        settings["chat_template"] = CHAT
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def save_words(folder: Path, words: list[str]) -> None:
    """A ``tokenizer.json`` that numbers whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    numbers = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def edit(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file; None removes one."""
    document = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({key: value for key, value in document.items() if value is not None})
    )


def lora_folder(
    folder: Path, targets: dict[str, tuple[int, int]], **settings: Any
) -> dict[str, Tensor]:
    """A LoRA adapter of rank 2 as PEFT writes it.

    Args:
        targets: (out, in) of modules by name.
    Returns:
        Its tensors.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    tensors = {}
    for name, (outputs, inputs) in targets.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, inputs)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, 2)
    save_file(tensors, folder / "adapter_model.safetensors")
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return tensors


def moe(kind: str) -> dict[str, int]:
    """Settings that make a family with experts as tiny as the others."""
    if kind == "mixtral":
        return {"num_local_experts": 4}
    own = {"num_experts": 4, "num_experts_per_tok": 2}
    return own if kind == "olmoe" else own | {"moe_intermediate_size": 12, "head_dim": 4}
