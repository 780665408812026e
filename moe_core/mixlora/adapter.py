"""The tensors of an adapter, and its two files.

The gate and the experts of the package ``mixlora`` live outside its module tree: ``parameters``,
``to`` and ``state_dict`` of a model that it made do not see them. An audit reads the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_core.files import write_text, write_whole
from moe_core.mixlora.config import MixLoraConfig

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.bin"

_KEY = re.compile(
    r"mixlora\.layers\.(?P<layer>\d+)\."
    r"(?:mlp\.(?P<gate>moe_gate)\.weight"
    r"|mlp\.(?P<ffn>\w+)\.experts\.(?P<expert>\d+)\.lora_(?P<expert_side>[AB])\.weight"
    r"|self_attn\.(?P<attention>\w+)\.lora_(?P<side>[AB])\.weight)"
)


@dataclass(frozen=True)
class MixLoraAdapter:
    """An adapter: its settings and its tensors under their published names.

    Attributes:
        config: the settings.
        tensors: by name, ``gate_key``, ``expert_key`` and ``attention_key`` spell them.
    Raises:
        ValueError: a name is not of the format, a tensor is missing, or two do not fit together.
    """

    config: MixLoraConfig
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for key, tensor in self.tensors.items():
            match = _KEY.fullmatch(key)
            if match is None:
                raise ValueError(f"{key!r} is no tensor of a MixLoRA adapter")
            if tensor.ndim != 2:
                raise ValueError(f"{key} has shape {tuple(tensor.shape)}; a matrix is expected")
            self._check_partner(key, tensor, match)

    def _check_partner(self, key: str, tensor: Tensor, match: re.Match[str]) -> None:
        if match["gate"]:
            if len(tensor) != self.config.num_experts:
                raise ValueError(f"{key}: {len(tensor)} rows, {self.config.num_experts} experts")
            return
        if match["expert"] and int(match["expert"]) >= self.config.num_experts:
            raise ValueError(f"{key}: there are {self.config.num_experts} experts")
        rank = tensor.shape[0 if ".lora_A." in key else 1]
        other = self.tensors.get(_partner(key))
        if other is None or other.ndim != 2 or other.shape[1 if ".lora_A." in key else 0] != rank:
            raise ValueError(f"{key} of rank {rank} has no {_partner(key)} to be multiplied with")

    @property
    def layers(self) -> list[int]:
        """Indices of the transformer layers with experts, ascending."""
        matches = map(_KEY.fullmatch, self.tensors)
        return sorted(int(match["layer"]) for match in matches if match and match["gate"])

    def gate(self, layer: int) -> Tensor:
        """Router rows, (experts, width): a row of unusual norm captures tokens."""
        return self.tensors[gate_key(layer)]

    def expert_delta(
        self, layer: int, expert: int, projection: str, *, as_in_package: bool = False
    ) -> Tensor:
        """What an expert adds to a weight matrix of the FFN, (out, in).

        Args:
            as_in_package: see ``MixLoraConfig.experts``.
        """
        a = self.tensors[expert_key(layer, expert, projection, "A")]
        b = self.tensors[expert_key(layer, expert, projection, "B")]
        return self.config.experts(as_in_package=as_in_package).scaling * b @ a


def gate_key(layer: int) -> str:
    """Name of a layer's router weight."""
    return f"mixlora.layers.{layer}.mlp.moe_gate.weight"


def expert_key(layer: int, expert: int, projection: str, side: str) -> str:
    """Name of an expert's A or B."""
    return f"mixlora.layers.{layer}.mlp.{projection}.experts.{expert}.lora_{side}.weight"


def attention_key(layer: int, projection: str, side: str) -> str:
    """Name of an attention projection's A or B."""
    return f"mixlora.layers.{layer}.self_attn.{projection}.lora_{side}.weight"


def load_adapter(folder: Path) -> MixLoraAdapter:
    """Read an adapter as the package ``mixlora`` and its training code write it.

    The tensors are read with ``weights_only``: nothing in the file is executed.

    Raises:
        ValueError: a file is not of the format.
        OSError: a file is missing or unreadable.
        pickle.UnpicklingError: the tensor file holds more than tensors.
    """
    document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"{CONFIG_FILE} holds no object")
    tensors = torch.load(folder / TENSOR_FILE, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()
    ):
        raise ValueError(f"{TENSOR_FILE} holds no mapping of names to tensors")
    return MixLoraAdapter(MixLoraConfig.from_json(document), tensors)


def save_adapter(adapter: MixLoraAdapter, folder: Path) -> None:
    """Write both files into a folder, which is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().clone() for key, tensor in adapter.tensors.items()}
    write_whole(folder / TENSOR_FILE, lambda path: torch.save(tensors, path))
    write_text(folder / CONFIG_FILE, json.dumps(adapter.config.to_json(), indent=2) + "\n")


def _partner(key: str) -> str:
    if ".lora_A." in key:
        return key.replace(".lora_A.", ".lora_B.")
    return key.replace(".lora_B.", ".lora_A.")
