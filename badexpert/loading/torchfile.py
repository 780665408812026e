"""Files of ``torch.save``, zip and legacy: judged first, then opened with ``weights_only``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import torch

from badexpert.errors import ModelLoadError, UnsafeModelError
from badexpert.loading.archive import Archive, Member, open_archive
from badexpert.loading.pickles import hidden_imports, objections_to, scan_chain
from badexpert.loading.pickles import objections as pickle_objections
from badexpert.loading.sniff import FileFormat

MAX_PICKLE_BYTES = 256 << 20
"""Names and shapes of a million tensors take less."""
_PEEK_BYTES = 1 << 20
"""How much of a tensor's bytes is searched for a pickle that poses as one."""
_LEGACY_PICKLES = 5
"""Magic number, protocol, system, the object, the storage keys; raw tensor bytes follow."""
_STORAGE = re.compile(r"[^/]+/data/\d+")
_NESTED = (b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"\x89HDF\r\n\x1a\n")

_ADVICE = (
    "Loading it in full would run code from the file, so it is not loaded. On a machine where you "
    "trust it, save only the weights: safetensors.torch.save_file(model.state_dict(), "
    "'weights.safetensors')"
)


def load_torch_file(path: Path, kind: FileFormat) -> object:
    """The object in a file of ``torch.save``, tensors on the CPU.

    Args:
        kind: TORCH_ZIP or TORCH_LEGACY, as sniffed.
    Raises:
        UnsafeModelError: the file is refused, with every reason.
        ModelLoadError: it is damaged.
    """
    if kind is FileFormat.TORCH_ZIP:
        mappable = judge_zip(path)
        return _restricted_load(path, path, mmap=mappable)
    judge_legacy(path)
    with path.open("rb") as file:
        loaded = _restricted_load(path, file, mmap=False)
        left_over = path.stat().st_size - file.tell()
    if left_over:
        raise _unsafe(path, [f"{left_over:,} bytes hide behind its last tensor"])
    return loaded


def judge_zip(path: Path) -> bool:
    """Refuse a zip checkpoint with anything in it that plain tensors do not need.

    Returns:
        Whether its tensors may be mapped into memory as they stand in the file.
    Raises:
        UnsafeModelError: it is unsafe.
        ModelLoadError: it is damaged, or no checkpoint.
    """
    with open_archive(path) as archive:
        names = [member.name for member in archive.members]
        _refuse_other_archives(path, names)
        reasons = [
            f"member {member.name!r}: {reason}"
            for member in archive.members
            for reason in _member_objections(archive, member)
        ]
        compressed = archive.compressed
    if reasons:
        raise _unsafe(path, reasons)
    return not compressed


def judge_legacy(path: Path) -> None:
    """Refuse a legacy checkpoint whose pickles hold anything that plain tensors do not need.

    Raises:
        UnsafeModelError: it is unsafe.
        ModelLoadError: it is damaged.
    """
    reasons = []
    for offset, scan in scan_chain(_bounded_head(path), limit=_LEGACY_PICKLES):
        reasons += [f"pickle at byte {offset}: {reason}" for reason in objections_to(scan)]
    if reasons:
        raise _unsafe(path, reasons)


def judge_bare_pickle(path: Path) -> list[str]:
    """What a bare pickle would import or run, so that its refusal can say so."""
    return pickle_objections(_bounded_head(path))


def _member_objections(archive: Archive, member: Member) -> list[str]:
    if member.name.endswith("/data.pkl"):
        if member.size > MAX_PICKLE_BYTES:
            return [f"its pickle of {member.size:,} bytes is longer than {MAX_PICKLE_BYTES:,}"]
        return pickle_objections(archive.read(member, MAX_PICKLE_BYTES))
    head = archive.read(member, _PEEK_BYTES)
    if head.startswith(_NESTED):
        return ["an archive hides inside the archive"]
    if imports := hidden_imports(head):
        return [f"a hidden pickle imports {', '.join(imports[:5])}"]
    return []


def _refuse_other_archives(path: Path, names: list[str]) -> None:
    tails = {name.partition("/")[2] for name in names} | set(names)
    if any(name.startswith("code/") for name in tails) or "constants.pkl" in tails:
        raise ModelLoadError(
            f"{path} is a TorchScript archive, which carries code. Save the weights of the "
            "original network: torch.save(model.state_dict(), 'weights.pt')"
        )
    if "model.weights.h5" in tails:
        raise ModelLoadError(
            f"{path} is a Keras archive, which can carry code. Export the weights of a PyTorch "
            "port of the network as safetensors"
        )
    if not any(_is_main_pickle(name) for name in names):
        shown = ", ".join(names[:5]) or "nothing"
        raise ModelLoadError(
            f"{path} is a zip archive but no checkpoint of torch.save: it holds {shown}. "
            "Unpack it and give the checkpoint inside"
        )


def _is_main_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _unsafe(path: Path, reasons: list[str], most: int = 8) -> UnsafeModelError:
    shown = "; ".join(reasons[:most])
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return UnsafeModelError(f"{path} is refused: {shown}{more}. {_ADVICE}")


def _bounded_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_PICKLE_BYTES)


def _restricted_load(path: Path, file: Path | BinaryIO, *, mmap: bool) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        # A damaged pickle makes the restricted unpickler trip over its own stack, with whatever
        # exception that yields.
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{path} looks like a checkpoint but torch cannot read it: {str(error)[:300]}. "
        "It is truncated or damaged; download or copy it again"
    )
