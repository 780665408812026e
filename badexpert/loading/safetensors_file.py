"""Safetensors: the header under a budget, then the tensors."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from badexpert.errors import ModelLoadError

MAX_HEADER_BYTES = 64 << 20
"""Names and shapes of half a million tensors take less."""


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Raises:
        ModelLoadError: the header is too large, the file is truncated, or tensors overlap.
    """
    _check_header(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RuntimeError, KeyError, OSError) as error:
        raise ModelLoadError(
            f"{path} is a damaged safetensors file: {str(error)[:300]}. "
            "Download or copy it again, or re-save it"
        ) from error


def _check_header(path: Path) -> None:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ModelLoadError(
            f"{path} claims a safetensors header of {header_bytes:,} bytes; at most "
            f"{MAX_HEADER_BYTES:,} are permitted. The file is damaged or hostile; get it anew"
        )
    if 8 + header_bytes > file_bytes:
        raise ModelLoadError(
            f"{path} is truncated: its safetensors header needs {8 + header_bytes:,} bytes "
            f"and the file has {file_bytes:,}. Download or copy it again"
        )
