"""A decoder as a folder: its configuration as JSON, its tensors as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_core.experts.mpo import MPOExperts
from moe_core.files import write_text, write_whole
from moe_core.lm import huggingface
from moe_core.lm.config import DecoderConfig
from moe_core.lm.decoder import Decoder

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
OWN = "moe_core"


def save_decoder(model: Decoder, folder: Path) -> str:
    """Write a model into a folder, as transformers knows it where nothing is lost by that.

    Returns:
        ``olmoe``, ``mixtral``, ``qwen3_moe`` or ``llama``; ``moe_core`` for all that only this
        package can load.
    """
    if not any(isinstance(layer.experts, MPOExperts) for layer in model.moe_layers()):
        with suppress(huggingface.NotExportableError):
            return export_decoder(model, folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"model_type": OWN, "decoder": asdict(model.config)}
    _write(folder, document, model.state_dict())
    return OWN


def export_decoder(model: Decoder, folder: Path) -> str:
    """Write a model as transformers knows it, or not at all.

    Experts of shared chains are written as the plain ones that compute the same.

    Returns:
        ``olmoe``, ``mixtral``, ``qwen3_moe`` or ``llama``.
    Raises:
        NotExportableError: it says which part transformers does not know.
    """
    kind = huggingface.kind_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, *huggingface.exported(model))
    return kind


def load_decoder(folder: Path) -> Decoder:
    """Read a model that ``save_decoder`` or transformers wrote, on the CPU and in evaluation mode.

    Only JSON and safetensors are read: nothing in the folder is executed.

    Raises:
        ValueError: the folder holds no such model.
        OSError: a file is missing or unreadable.
    """
    document = _read_json(folder / CONFIG_FILE)
    tensors = _read_tensors(folder)
    if document.get("model_type") == OWN:
        config = DecoderConfig.from_json(document.get("decoder", {}))
    else:
        config, tensors = huggingface.imported(document, tensors)
    _check_shapes(config, tensors, folder)
    model = Decoder(config)
    model.load_state_dict(tensors)
    return model.eval()


def stored_prefix(folder: Path) -> str:
    """What the names of a decoder's parts begin with in a folder of it."""
    return "" if _read_json(folder / CONFIG_FILE).get("model_type") == OWN else "model."


def _write(folder: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt"}
    write_whole(folder / TENSOR_FILE, lambda path: save_file(whole, path, metadata=metadata))
    write_text(folder / CONFIG_FILE, json.dumps(document, indent=2) + "\n")


def _check_shapes(config: DecoderConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Before memory is taken: a small file may announce a huge model."""
    if config.num_layers > len(tensors):
        raise ValueError(f"{folder} names {config.num_layers} layers in {len(tensors)} tensors")
    try:
        with torch.device("meta"):
            expected = Decoder(config).state_dict()
    except RuntimeError as error:
        raise ValueError(f"the sizes in {folder / CONFIG_FILE} are impossible: {error}") from error
    for name in sorted(expected.keys() | tensors.keys()):
        shapes = [tuple(part[name].shape) if name in part else None for part in (expected, tensors)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the tensors in {folder} do not fit its {CONFIG_FILE}: {name} should have shape "
                f"{shapes[0]}, and has {shapes[1]}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no object")
    return document


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    names = [TENSOR_FILE]
    if (folder / INDEX_FILE).is_file():
        weights = _read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(weights, dict):
            raise ValueError(f"{folder / INDEX_FILE} has no weight_map")
        names = sorted({str(name) for name in weights.values()})
    tensors: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"the index names {name!r}, which is not a file of the folder itself")
        try:
            tensors |= load_file(folder / name)
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is not a safetensors file: {error}") from error
    return tensors
