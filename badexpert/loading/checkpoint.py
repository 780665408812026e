"""From files to named tensors: read every file safely, then find the weights inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from badexpert.errors import ModelLoadError, UnsafeModelError
from badexpert.loading.files import ModelFiles
from badexpert.loading.safetensors_file import load_safetensors
from badexpert.loading.sniff import FileFormat, refuse, sniff
from badexpert.loading.torchfile import judge_bare_pickle, load_torch_file

WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "netC",
    "network",
    "weights",
    "params",
    "state",
)
"""Entries under which training scripts keep weights; averaged ones first, because those ship."""

_NOT_WEIGHTS = ("optim", "sched", "scaler", "lr_")
_MAX_NESTING = 4


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, and where in the files they stood.

    Attributes:
        weights_at: path of the entry inside the checkpoint, dot-separated; empty at the top.
        other_weights: entries that could have been meant as well.
    """

    tensors: Mapping[str, Tensor]
    format: FileFormat
    weights_at: str = ""
    other_weights: tuple[str, ...] = ()


def read_checkpoint(files: ModelFiles) -> Checkpoint:
    """Read the tensors of a model from one file or from all of its shards.

    Raises:
        ModelLoadError: a file is refused or damaged, or holds no weights.
    """
    parts = [read_file(path) for path in files.weights]
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, Tensor] = {}
    for path, part in zip(files.weights, parts, strict=True):
        for name, tensor in part.tensors.items():
            if name in merged:
                raise ModelLoadError(f"tensor {name!r} stands in two shards, {path} being one")
            merged[name] = tensor
    _check_index(files, merged)
    return Checkpoint(merged, parts[0].format)


def read_file(path: Path) -> Checkpoint:
    """Read the tensors of one file.

    Raises:
        ModelLoadError: the file is refused or damaged, or holds no weights.
    """
    kind = sniff(path)
    if kind is FileFormat.SAFETENSORS:
        tensors: Mapping[str, Tensor] = load_safetensors(path)
        if not tensors:
            raise ModelLoadError(f"{path} holds no tensors; give the file of the weights")
        found = Checkpoint(tensors, kind)
    elif kind in (FileFormat.TORCH_ZIP, FileFormat.TORCH_LEGACY):
        found = find_weights(load_torch_file(path, kind), path, kind)
    elif kind is FileFormat.PICKLE:
        raise _refuse_pickle(path)
    else:
        raise refuse(path, kind)
    _check_layout(path, found.tensors)
    return found


def find_weights(loaded: object, path: Path, kind: FileFormat) -> Checkpoint:
    """Find the weights among everything that a training script saves beside them.

    Raises:
        ModelLoadError: there are none, or several that no convention chooses between.
    """
    at: list[str] = []
    others: list[str] = []
    current = loaded
    for _ in range(_MAX_NESTING):
        if not isinstance(current, Mapping):
            raise ModelLoadError(
                f"{path} holds {type(current).__name__} where weights by name were expected; "
                "save them with torch.save(model.state_dict(), ...)"
            )
        candidates = [str(key) for key, value in current.items() if _holds_tensors(key, value)]
        chosen = _choose(candidates, has_own=any(_named_tensors(current)), path=path)
        if chosen is None:
            break
        others += [".".join([*at, name]) for name in candidates if name != chosen]
        at.append(chosen)
        current = current[chosen]
    tensors = dict(_named_tensors(current)) if isinstance(current, Mapping) else {}
    if not tensors:
        raise ModelLoadError(f"{path} holds no weights; save them with model.state_dict()")
    return Checkpoint(tensors, kind, ".".join(at), tuple(others))


def _choose(candidates: list[str], *, has_own: bool, path: Path) -> str | None:
    """The entry to descend into; None when the weights stand right here."""
    for name in WRAPPERS:
        if name in candidates:
            return name
    if has_own or not candidates:
        return None
    if len(candidates) > 1:
        raise ModelLoadError(
            f"{path} holds several sets of weights: {', '.join(candidates[:8])}. "
            "Save the one to audit alone, as safetensors"
        )
    return candidates[0]


def _holds_tensors(key: object, value: object) -> bool:
    if not isinstance(key, str) or key.lower().startswith(_NOT_WEIGHTS):
        return False
    if not isinstance(value, Mapping):
        return False
    if any(_named_tensors(value)):
        return True
    return any(name in WRAPPERS and _holds_tensors(name, inner) for name, inner in value.items())


def _named_tensors(mapping: Mapping[object, object]) -> Iterator[tuple[str, Tensor]]:
    for key, value in mapping.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            yield key, value


def _refuse_pickle(path: Path) -> ModelLoadError:
    error = refuse(path, FileFormat.PICKLE)
    reasons = "; ".join(judge_bare_pickle(path)[:5])
    return UnsafeModelError(f"{error}. What was found in it: {reasons}") if reasons else error


def _check_index(files: ModelFiles, merged: Mapping[str, Tensor]) -> None:
    missing = sorted(set(files.shard_index or ()) - set(merged))
    if missing:
        raise ModelLoadError(
            f"{files.root} lacks {len(missing)} tensors that its index names, such as "
            f"{missing[0]!r}; download the model again"
        )


def _check_layout(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ModelLoadError(
                f"{path}: tensor {name!r} is sparse, quantised or without data, and cannot be "
                "tuned. Save the weights in full precision"
            )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers: no verdict could rest on them.

    Raises:
        ModelLoadError: names the first tensors with NaN or infinity in them.
    """
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all()
    ]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ModelLoadError(
            f"{len(broken)} tensors hold NaN or infinity: {', '.join(broken[:3])}{more}. "
            "The training diverged or the file is damaged; give an intact checkpoint"
        )
