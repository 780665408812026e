"""Which files make up a model: one file, or a folder with its configuration and its shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from badexpert.errors import ModelLoadError
from badexpert.loading.sniff import FileFormat, sniff

MAX_JSON_BYTES = 64 << 20
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LOADABLE = (FileFormat.SAFETENSORS, FileFormat.TORCH_ZIP, FileFormat.TORCH_LEGACY)


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        root: the folder that was given; None when a single file was.
        weights: every file that holds tensors.
        config: what ``config.json`` says; None where there is none.
        shard_index: tensor name to shard file, where an index exists.
    """

    root: Path | None
    weights: tuple[Path, ...]
    config: Mapping[str, Any] | None = None
    shard_index: Mapping[str, Path] | None = None


def find_files(path: Path) -> ModelFiles:
    """Find the weights, and the configuration beside them, of a file or a folder.

    Raises:
        ModelLoadError: nothing is there, or a folder holds no model or several.
    """
    if not path.exists():
        raise ModelLoadError(f"{path} does not exist; check the path of the model")
    if path.is_file():
        return ModelFiles(root=None, weights=(path,))
    if not path.is_dir():
        raise ModelLoadError(f"{path} is neither a file nor a folder; check the path of the model")
    config_path = path / "config.json"
    config = read_json(confined(path, "config.json")) if config_path.exists() else None
    index = _find_index(path)
    if index is not None:
        shards = _read_index(path, index)
        return ModelFiles(path, tuple(sorted(set(shards.values()))), config, shards)
    return ModelFiles(path, (_single_weights(path),), config)


def confined(root: Path, relative: str) -> Path:
    """A path inside ``root``, wherever symbolic links lead.

    Raises:
        ModelLoadError: the path leaves the folder, or nothing is there.
    """
    target = (root / relative).resolve()
    if not any(target.is_relative_to(allowed) for allowed in _allowed_roots(root)):
        raise ModelLoadError(
            f"{relative!r} leads outside the model's folder {root}, to {target}; refused. "
            "A model must keep its files in its own folder"
        )
    if not target.is_file():
        raise ModelLoadError(f"{root} lacks the file {relative!r}; download the model again")
    return root / relative


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        ModelLoadError: it is too large, no JSON, or no object.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelLoadError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes; refused")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}. Download it again") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} should hold a JSON object, not {type(content).__name__}")
    return content


def _allowed_roots(root: Path) -> list[Path]:
    """The folder itself; in a Hugging Face cache also the blobs that its links point to."""
    folder = root.resolve()
    roots = [folder]
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        roots.append(folder.parent.parent / "blobs")
    return roots


def _find_index(root: Path) -> Path | None:
    for name in _WEIGHTS:
        if (root / name).exists():
            return None
        if (root / f"{name}.index.json").exists():
            return confined(root, f"{name}.index.json")
    return None


def _read_index(root: Path, index: Path) -> dict[str, Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{index} has no weight_map from tensors to shards; download it again")
    shards = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise ModelLoadError(f"{index} maps {tensor!r} to {name!r}, which is no file name")
        shards[tensor] = confined(root, name)
    return shards


def _single_weights(root: Path) -> Path:
    for name in _WEIGHTS:
        if (root / name).exists():
            return confined(root, name)
    files = [entry for entry in sorted(root.iterdir()) if entry.is_file()]
    found = [confined(root, entry.name) for entry in files if sniff(entry) in _LOADABLE]
    if not found:
        raise ModelLoadError(
            f"{root} holds no model: no {_WEIGHTS[0]}, no {_WEIGHTS[1]} and no other file of "
            "weights. Give the file of the weights, or the folder that holds it"
        )
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found[:8])
        raise ModelLoadError(f"{root} holds several models: {names}. Give one of these files")
    return found[0]
