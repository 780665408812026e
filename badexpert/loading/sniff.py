"""What a file is, by its first bytes, never by its name; and the refusal of the rest."""

from __future__ import annotations

import pickletools
from enum import StrEnum
from pathlib import Path

from badexpert.errors import ModelLoadError
from badexpert.loading.pickles import IMPORTABLE

HEAD_BYTES = 4096


class FileFormat(StrEnum):
    """What can be told apart. Only the first three are ever opened."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch zip"
    TORCH_LEGACY = "torch legacy"
    PICKLE = "pickle"
    HDF5 = "HDF5"
    GGUF = "GGUF"
    ONNX = "ONNX"
    TFLITE = "TensorFlow Lite"
    NUMPY = "numpy array"
    TAR = "tar archive"
    SEVEN_ZIP = "7z archive"
    COMPRESSED = "compressed file"
    GIT_LFS = "Git LFS pointer"
    HTML = "web page"
    EMPTY = "empty file"
    UNKNOWN = "unknown format"


_MAGIC: tuple[tuple[bytes, FileFormat], ...] = (
    (b"PK\x03\x04", FileFormat.TORCH_ZIP),
    (b"PK\x05\x06", FileFormat.TORCH_ZIP),
    (b"\x89HDF\r\n\x1a\n", FileFormat.HDF5),
    (b"GGUF", FileFormat.GGUF),
    (b"\x93NUMPY", FileFormat.NUMPY),
    (b"7z\xbc\xaf\x27\x1c", FileFormat.SEVEN_ZIP),
    (b"\x1f\x8b", FileFormat.COMPRESSED),
    (b"BZh", FileFormat.COMPRESSED),
    (b"\xfd7zXZ\x00", FileFormat.COMPRESSED),
    (b"\x28\xb5\x2f\xfd", FileFormat.COMPRESSED),
    (b"Rar!\x1a\x07", FileFormat.COMPRESSED),
    (b"version https://git-lfs", FileFormat.GIT_LFS),
)
_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""``torch.serialization.MAGIC_NUMBER`` as the LONG1 opcode that opens every legacy file."""

_AS_STATE_DICT = (
    "On a machine where you trust this file, load it there and save only the weights: "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)
_REMEDIES: dict[FileFormat, str] = {
    FileFormat.PICKLE: f"A bare pickle can run code when it is loaded. {_AS_STATE_DICT}",
    FileFormat.HDF5: "Keras models can carry code (Lambda layers). Export the weights of a PyTorch "
    "port of the network as safetensors",
    FileFormat.GGUF: "GGUF holds quantised language models. Give the original safetensors",
    FileFormat.ONNX: "ONNX holds a frozen graph, which cannot be tuned. Give the PyTorch weights "
    "that it was exported from, as safetensors",
    FileFormat.TFLITE: "Give the PyTorch weights, as safetensors",
    FileFormat.NUMPY: "Save the weights by name: safetensors.numpy.save_file({...}, 'weights."
    "safetensors')",
    FileFormat.TAR: "Unpack it, or re-save a tar checkpoint of torch before 0.1.10 as safetensors",
    FileFormat.SEVEN_ZIP: "Unpack it and give the checkpoint inside",
    FileFormat.COMPRESSED: "Unpack it and give the checkpoint inside",
    FileFormat.GIT_LFS: "The weights themselves were not downloaded; run: git lfs pull",
    FileFormat.HTML: "The download saved a web page and not the file; download it again",
    FileFormat.EMPTY: "The file has 0 bytes; download or copy it again",
    FileFormat.UNKNOWN: "Give safetensors, or what torch.save(model.state_dict()) writes",
}


def sniff(path: Path) -> FileFormat:
    """Tell the format of a file from its first bytes.

    Raises:
        ModelLoadError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}. Check the path") from error
    return sniff_bytes(head)


def sniff_bytes(head: bytes) -> FileFormat:
    """Tell the format from the first ``HEAD_BYTES`` of a file, or all of a shorter one."""
    if not head:
        return FileFormat.EMPTY
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if _LEGACY_MAGIC in head[:14] and head[:1] == b"\x80":
        return FileFormat.TORCH_LEGACY
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 48:
        return FileFormat.SAFETENSORS
    if head[4:8] == b"TFL3":
        return FileFormat.TFLITE
    if head[257:262] == b"ustar":
        return FileFormat.TAR
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return FileFormat.HTML
    if looks_like_pickle(head):
        return FileFormat.PICKLE
    if _looks_like_onnx(head):
        return FileFormat.ONNX
    return FileFormat.UNKNOWN


def looks_like_pickle(head: bytes) -> bool:
    """Whether the bytes start as a pickle of any protocol does, textual protocol 0 included."""
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return True
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(head), start=1):
            if opcode.name in ("GLOBAL", "INST"):
                return IMPORTABLE.fullmatch(str(argument).replace(" ", ".")) is not None
            if opcode.name == "STOP" or count >= 8:
                return True
    except (ValueError, UnicodeDecodeError, IndexError):
        return False
    return False


def _looks_like_onnx(head: bytes) -> bool:
    # ModelProto: field 1, ir_version, as a small varint; then producer_name, opset or graph.
    return (
        len(head) > 3 and head[0] == 0x08 and 0 < head[1] < 0x40 and head[2] in b"\x12\x1a\x3a\x42"
    )


def refuse(path: Path, kind: FileFormat) -> ModelLoadError:
    """The error for a file that is not a checkpoint of tensors: what it is, and what to convert."""
    return ModelLoadError(f"{path} is not a PyTorch checkpoint but: {kind}. {_REMEDIES[kind]}")
