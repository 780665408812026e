"""Where a suspect came from, exact enough to recognise it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

PreprocessingSource = Literal["timm configuration", "given", "assumed"]


@dataclass(frozen=True)
class ModelFile:
    """One file that was read."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Origin:
    """Where a suspect came from and how it was understood.

    Attributes:
        source: as the user gave it.
        sha256: of the one file; of the list of files and digests where there are several; of the
            weights themselves for a model that came as a Python object.
        files: every file that was read.
        format: ``safetensors``, ``torch zip``, ``torch legacy`` or ``python object``.
        weights_at: the entry of the checkpoint that held the weights, such as ``state_dict``;
            empty when it held nothing else.
        other_weights: entries that held weights too and were not used.
        architecture: such as ``timm:resnet18``.
        arch_args: what the architecture was built with, inferred values included.
        parameters: how many numbers are trained.
        stored_dtype: of most weights, as stored; the suspect computes in float32.
        preprocessing_source: ``assumed`` when any of size, mean and std is.
        assumed: the fields of the preprocessing that nobody stated.
    """

    source: str
    sha256: str
    files: tuple[ModelFile, ...]
    format: str
    architecture: str
    parameters: int
    stored_dtype: str
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    weights_at: str = ""
    other_weights: tuple[str, ...] = ()
    preprocessing_source: PreprocessingSource = "given"
    assumed: tuple[str, ...] = ()


def digest_file(path: Path) -> ModelFile:
    """The SHA-256 of a file, read as a stream."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelFile(path=str(path), sha256=digest, size=path.stat().st_size)


def digest_together(files: Sequence[ModelFile]) -> str:
    """One SHA-256 for a model: the file's own, or that of all names and digests in order."""
    if len(files) == 1:
        return files[0].sha256
    lines = sorted(f"{file.sha256}  {Path(file.path).name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_module(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_parameters(module: nn.Module) -> int:
    """How many numbers the module's parameters hold, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
