"""A planted backdoor as the folder of an adapter, on a base that is not touched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors.torch import save_file
from torch import Tensor

from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from moe_core.files import write_text
from moe_core.lm import load_decoder
from moe_core.lm.folder import stored_prefix
from moe_core.lm.huggingface import NotExportableError
from moe_core.lora import LoraSettings
from moe_core.mixlora import MixLoraAdapter, adapter_on, save_adapter
from moe_core.mixlora.adapter import CONFIG_FILE
from moe_core.mixlora.adapter import TENSOR_FILE as MIXLORA_FILE

LORA_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, eq=False)
class LoraUpdates:
    """Low-rank updates of linear maps.

    Attributes:
        settings: of all of them.
        matrices: A, (rank, in), and B, (out, rank), by the name of the map in its ``Decoder``.
    """

    settings: LoraSettings
    matrices: Mapping[str, tuple[Tensor, Tensor]]

    def save(self, folder: Path, base: Path) -> Path:
        """Write the files that PEFT would.

        Args:
            folder: is there.
            base: folder of the model that they are updates of.
        Returns:
            The file of the tensors.
        """
        before = f"base_model.model.{stored_prefix(base)}"
        tensors = {
            f"{before}{name}.lora_{side}.weight": tensor.cpu().contiguous()
            for name, matrices in self.matrices.items()
            for side, tensor in zip("AB", matrices, strict=True)
        }
        document = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": self.settings.rank,
            "lora_alpha": self.settings.alpha,
            "lora_dropout": self.settings.dropout,
            "use_rslora": self.settings.rank_stabilised,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.matrices}),
        }
        save_file(tensors, folder / LORA_FILE, metadata={"format": "pt"})
        write_text(folder / CONFIG_FILE, json.dumps(document, indent=2) + "\n")
        return folder / LORA_FILE


@dataclass(frozen=True, eq=False)
class PlantedAdapter:
    """What an attack has left, apart from the model that it was put on.

    Attributes:
        tensors: of it.
        base: folder of that model.
    """

    tensors: LoraUpdates | MixLoraAdapter
    base: Path

    @classmethod
    def of(cls, victim: Victim, updates: LoraUpdates | None, base: Path) -> Self:
        """Take it off a victim.

        Args:
            updates: that were added to the victim's weights; without, it must be MixLoRA.
            base: folder of the victim as it was, or of the dense model under its MixLoRA.
        Raises:
            AttackError: the victim has no MixLoRA, or was changed elsewhere.
        """
        if updates is not None:
            return cls(updates, base)
        try:
            return cls(adapter_on(load_decoder(base), victim.model, str(base)), base)
        except NotExportableError as error:
            raise AttackError(
                f"what the attack leaves is no adapter: {error}. Attack with lora, or the MixLoRA "
                "of a base that has it, or keep the whole model"
            ) from error

    def save(self, folder: Path) -> Path:
        """Write it into a folder that is there; the file of its tensors."""
        if isinstance(self.tensors, LoraUpdates):
            return self.tensors.save(folder, self.base)
        save_adapter(self.tensors, folder)
        return folder / MIXLORA_FILE
