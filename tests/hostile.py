"""Hostile checkpoints, each of which would really run its payload in a loader that trusts it.

The payload makes an empty folder, the marker, so that a test can see whether it ran.
``python -m tests.hostile FOLDER`` writes every file and detonates it with an unrestricted loader.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Payload = Callable[[str], bytes]
MARKER = "detonated"


@dataclass(frozen=True)
class Attack:
    """One hostile file.

    Attributes:
        build: the bytes of the file, given the marker's path.
        says: words that the refusal must contain, so that the reason is named.
        detonate: an unrestricted loader that runs the payload; None for a file that attacks
            memory, or a format that needs a library which is not installed.
        file_name: often with a misleading extension.
    """

    build: Payload
    says: tuple[str, ...]
    detonate: Callable[[Path], object] | None
    file_name: str = "suspect.pt"


# Pickles, written opcode by opcode where the standard pickler would not write them.


def call(module: str, name: str, *arguments: str) -> bytes:
    """Protocol-2 opcodes that call an importable name with texts; without header and STOP."""
    texts = b"".join(b"X" + struct.pack("<I", len(a)) + a.encode() for a in arguments)
    return f"c{module}\n{name}\n(".encode() + texts + b"tR"


def mkdir(marker: str) -> bytes:
    return b"\x80\x02" + call("os", "mkdir", marker) + b"."


def textual(marker: str) -> bytes:
    return f"cos\nmkdir\n(V{marker}\ntR.".encode()


def python2_name(marker: str) -> bytes:
    return f"c__builtin__\nexec\n(Vimport os; os.mkdir({marker!r})\ntR.".encode()


def stack_global(marker: str) -> bytes:
    def short(text: str) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text.encode()

    path = b"X" + struct.pack("<I", len(marker)) + marker.encode()
    return b"\x80\x04" + short("os") + short("mkdir") + b"\x93" + path + b"\x85R."


def memoized_stack_global(marker: str) -> bytes:
    """The module's name is fetched from the memo, past a scanner that reads neighbours only."""
    path = b"X" + struct.pack("<I", len(marker)) + marker.encode()
    names = b"\x8c\x02os\x94\x8c\x05mkdir\x940\x8c\x04json00"
    return b"\x80\x04" + names + b"h\x00h\x01\x93" + path + b"\x85R."


def instance(marker: str) -> bytes:
    return f"(V{marker}\nios\nmkdir\n.".encode()


def object_opcode(marker: str) -> bytes:
    return f"(cos\nmkdir\nV{marker}\no.".encode()


def broken_after_payload(marker: str) -> bytes:
    return mkdir(marker)[:-1] + b"\xff\xff this is no pickle"


def endless(marker: str) -> bytes:
    return mkdir(marker)[:-1]


def timeit_gadget(marker: str) -> bytes:
    setup = f"import os; os.mkdir({marker!r})"
    numbers = b"ctimeit\ndefault_timer\nK\x01K\x01tR."
    return b"\x80\x02" + call("timeit", "repeat", "pass", setup)[:-2] + numbers


def numpy_gadget(marker: str) -> bytes:
    code = f"import os; os.mkdir({marker!r})"
    opening = b"cnumpy.testing._private.utils\nrunstring\n("
    return b"\x80\x02" + opening + b"X" + struct.pack("<I", len(code)) + code.encode() + b"}tR."


def torch_gadget(marker: str) -> bytes:
    return b"\x80\x02" + call("torch.utils.collect_env", "run", f"mkdir '{marker}'") + b"."


def nested_load_gadget(marker: str) -> bytes:
    """An innocent-looking name of torch that unpickles its argument in full."""
    inner = mkdir(marker)
    legacy = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(1001, 2)
    legacy += pickle.dumps({}, 2) + inner
    data = b"B" + struct.pack("<I", len(legacy)) + legacy
    return b"\x80\x03ctorch.storage\n_load_from_bytes\n" + data + b"\x85R."


def attribute_gadget(marker: str) -> bytes:
    """getattr on a permitted name: everything is reachable from anything."""
    reach = b"c__builtin__\ngetattr\n(ccollections\nOrderedDict\nX\x09\x00\x00\x00__class__tR0"
    return b"\x80\x02" + reach + mkdir(marker)[2:]


# Containers around the pickles.


def torch_zip(
    data_pkl: bytes, extra: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """A zip archive laid out as torch.save does."""
    members = {"archive/data.pkl": data_pkl, "archive/byteorder": b"little"}
    members |= {"archive/version": b"3\n", **(extra or {})}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def benign() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}


def saved(content: object, *, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zipped(payload: Payload) -> Payload:
    return lambda marker: torch_zip(payload(marker))


def wrong_checksum(marker: str) -> bytes:
    """Strict zip readers skip this member, or stop; torch loads it."""
    data = bytearray(torch_zip(mkdir(marker)))
    for signature, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        at = data.index(signature) + offset
        data[at : at + 4] = b"\xde\xad\xbe\xef"
    return bytes(data)


def second_pickle(marker: str) -> bytes:
    return torch_zip(b"\x80\x02}." + mkdir(marker))


def legacy_payload(marker: str) -> bytes:
    head = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(1001, 2)
    return head + pickle.dumps({}, 2) + mkdir(marker) + pickle.dumps([], 2)


def legacy_tail(marker: str) -> bytes:
    return saved(benign(), legacy=True) + mkdir(marker)


def zip_in_zip(marker: str) -> bytes:
    return torch_zip(b"\x80\x02}.", {"archive/data/0": torch_zip(mkdir(marker))})


def pickle_as_storage(marker: str) -> bytes:
    return torch_zip(b"\x80\x02}.", {"archive/data/0": mkdir(marker)})


def pickle_beside(marker: str) -> bytes:
    return torch_zip(b"\x80\x02}.", {"archive/extra/optimizer.bin": textual(marker)})


def second_data_pkl(marker: str) -> bytes:
    """torch finds members without regard to case; a scanner may look at the other one."""
    return torch_zip(b"\x80\x02}.", {"archive/DATA.PKL": mkdir(marker)})


def before_the_zip(marker: str) -> bytes:
    """A pickle for whoever reads from the front, a zip for whoever reads from the back."""
    return mkdir(marker) + torch_zip(b"\x80\x02}.")


def behind_the_zip(marker: str) -> bytes:
    return saved(benign()) + mkdir(marker)


def before_the_directory(marker: str) -> bytes:
    """Bytes in a gap behind the last member, which no directory lists."""
    data = torch_zip(b"\x80\x02}.")
    return _insert(data, data.index(b"PK\x01\x02"), mkdir(marker))


def between_the_members(marker: str) -> bytes:
    """Bytes in a gap between two members, which no directory lists."""
    data = torch_zip(b"\x80\x02}.")
    return _insert(data, data.index(b"PK\x03\x04", 4), mkdir(marker))


def _insert(data: bytes, at: int, hidden: bytes) -> bytes:
    """A zip with bytes put in at an offset, and every offset behind it set right."""
    moved = bytearray(data)
    position = data.index(b"PK\x01\x02")
    while moved[position : position + 4] == b"PK\x01\x02":
        _shift(moved, position + 42, at, len(hidden))
        name, extra, comment = struct.unpack("<3H", moved[position + 28 : position + 34])
        position += 46 + name + extra + comment
    _shift(moved, position + 16, at, len(hidden))
    return bytes(moved[:at]) + hidden + bytes(moved[at:])


def _shift(data: bytearray, field: int, at: int, by: int) -> None:
    (offset,) = struct.unpack("<I", data[field : field + 4])
    if offset >= at:
        data[field : field + 4] = struct.pack("<I", offset + by)


def contradicting_header(marker: str) -> bytes:
    """The directory calls the hostile member README, its own header calls it data.pkl."""
    data = torch_zip(b"\x80\x02}.", {"archive/data.pkm": mkdir(marker)})
    at = data.index(b"archive/data.pkm")
    return data[:at] + b"archive/data.pkl" + data[at + 16 :]


def script_archive(marker: str) -> bytes:
    code = f"import os\nos.mkdir({marker!r})\n".encode()
    extra = {"archive/code/__torch__.py": code, "archive/constants.pkl": b"\x80\x02)."}
    return torch_zip(b"\x80\x02}.", extra)


def old_tar(marker: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(mkdir(marker))
            archive.addfile(info, io.BytesIO(mkdir(marker)))
    return buffer.getvalue()


def object_array(marker: str) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + mkdir(marker)


def keras_lambda(marker: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", f'{{"class_name": "Lambda", "code": "{marker}"}}')
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    return buffer.getvalue()


def bomb(marker: str) -> bytes:
    """A third of a gigabyte out of a third of a megabyte."""
    zeros = {"archive/data/0": bytes(320 << 20)}
    return torch_zip(b"\x80\x02}.", zeros, zipfile.ZIP_DEFLATED)


def lying_bomb(marker: str) -> bytes:
    """Says that it stays small, and does not."""
    data = torch_zip(b"\x80\x02}.", {"archive/data/0": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)
    return data.replace(struct.pack("<I", 8 << 20), struct.pack("<I", 1 << 10))


def giant_header(marker: str) -> bytes:
    return struct.pack("<Q", 1 << 40) + b'{"fc.weight": {}}'


# How each would go off.


def unpickle(path: Path) -> object:
    """Every pickle in the file, one after the other."""
    stream = io.BytesIO(path.read_bytes())
    result: object = None
    while stream.tell() < len(stream.getbuffer()):
        result = pickle.load(stream)
    return result


def torch_load(path: Path) -> object:
    return torch.load(path, weights_only=False)


def unpickle_members(path: Path) -> object:
    """Every pickle in every member, as a program that extracts the archive would."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            stream = io.BytesIO(archive.read(name))
            if name.casefold().endswith("data.pkl"):
                while stream.tell() < len(stream.getbuffer()):
                    pickle.load(stream)
            elif stream.getvalue()[:1] in (b"\x80", b"c"):
                pickle.load(stream)
            elif stream.getvalue().startswith(b"PK"):
                torch.load(stream, weights_only=False)
    return None


def unpickle_tail(path: Path) -> object:
    """The hidden pickle, as a reader finds it that does not go by the directory."""
    data = path.read_bytes()
    return pickle.loads(data[data.rindex(b"\x80\x02cos\nmkdir") :])


def run_script(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        exec(archive.read("archive/code/__torch__.py"))
    return None


def untar(path: Path) -> object:
    with tarfile.open(path) as archive:
        member = archive.extractfile("pickle")
        assert member is not None
        return pickle.load(member)


def numpy_load(path: Path) -> object:
    import numpy as np

    return np.load(path, allow_pickle=True)


ATTACKS: dict[str, Attack] = {
    "pickle": Attack(mkdir, ("bare pickle", "os.mkdir"), unpickle),
    "wrong extension": Attack(mkdir, ("pickle", "os.mkdir"), unpickle, "model.safetensors"),
    "protocol 0 text": Attack(textual, ("pickle", "os.mkdir"), unpickle, "model.bin"),
    "python 2 name": Attack(python2_name, ("builtins.exec",), unpickle),
    "stack global": Attack(stack_global, ("os.mkdir",), unpickle),
    "memoized stack global": Attack(memoized_stack_global, ("os.mkdir",), unpickle),
    "INST": Attack(instance, ("os.mkdir", "INST"), unpickle),
    "OBJ": Attack(object_opcode, ("os.mkdir", "OBJ"), unpickle),
    "zip": Attack(zipped(mkdir), ("archive/data.pkl", "os.mkdir"), torch_load),
    "zip, protocol 4": Attack(zipped(stack_global), ("archive/data.pkl", "os.mkdir"), torch_load),
    "zip, timeit": Attack(zipped(timeit_gadget), ("timeit.repeat",), torch_load),
    "zip, numpy": Attack(zipped(numpy_gadget), ("runstring",), torch_load),
    "zip, torch": Attack(zipped(torch_gadget), ("torch.utils.collect_env.run",), torch_load),
    "zip, nested": Attack(zipped(nested_load_gadget), ("_load_from_bytes",), torch_load),
    "zip, getattr": Attack(zipped(attribute_gadget), ("builtins.getattr",), torch_load),
    "zip, broken after payload": Attack(
        zipped(broken_after_payload), ("os.mkdir", "broken"), torch_load
    ),
    "zip, endless": Attack(zipped(endless), ("os.mkdir", "broken"), torch_load),
    "zip, wrong checksum": Attack(wrong_checksum, ("archive/data.pkl", "os.mkdir"), torch_load),
    "second pickle": Attack(second_pickle, ("second pickle", "os.mkdir"), unpickle_members),
    "legacy": Attack(legacy_payload, ("os.mkdir",), torch_load),
    "legacy, tail": Attack(legacy_tail, ("bytes hide behind",), unpickle_tail),
    "zip in zip": Attack(zip_in_zip, ("archive/data/0", "archive hides"), unpickle_members),
    "pickle as storage": Attack(
        pickle_as_storage, ("archive/data/0", "os.mkdir"), unpickle_members
    ),
    "pickle beside": Attack(pickle_beside, ("optimizer.bin", "os.mkdir"), unpickle_members),
    "second data.pkl": Attack(second_data_pkl, ("same name",), unpickle_members),
    "before the zip": Attack(before_the_zip, ("pickle", "os.mkdir"), unpickle_tail),
    "behind the zip": Attack(behind_the_zip, ("truncated or extended",), unpickle_tail),
    "before the directory": Attack(before_the_directory, ("unaccounted bytes",), unpickle_tail),
    "between the members": Attack(
        between_the_members, ("bytes stand before member",), unpickle_tail
    ),
    "contradicting header": Attack(contradicting_header, ("contradicts",), unpickle_tail),
    "TorchScript": Attack(script_archive, ("TorchScript",), run_script),
    "old tar": Attack(old_tar, ("tar archive",), untar),
    "object array": Attack(object_array, ("numpy array",), numpy_load, "weights.npy"),
    "Keras Lambda": Attack(keras_lambda, ("Keras",), None, "model.keras"),
    "HDF5": Attack(lambda _: b"\x89HDF\r\n\x1a\n" + bytes(64), ("HDF5",), None, "model.h5"),
    "7z": Attack(lambda _: b"7z\xbc\xaf\x27\x1c" + bytes(64), ("7z archive",), None),
    "bomb": Attack(bomb, ("decompression bomb",), None),
    "lying bomb": Attack(lying_bomb, ("size that it claims",), None),
    "giant header": Attack(giant_header, ("header of 1,099,511,627,776",), None, "m.safetensors"),
}


def write(name: str, folder: Path) -> Path:
    """Write one hostile file into a folder of its own; the payload would make MARKER there."""
    attack = ATTACKS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / attack.file_name
    path.write_bytes(attack.build(str(folder / MARKER)))
    return path


def detonate_all(root: Path) -> None:
    """Write and set off every attack that can be, each in its own folder below ``root``."""
    for name, attack in ATTACKS.items():
        if attack.detonate is None:
            continue
        path = write(name, root / name)
        try:
            attack.detonate(path)
        except Exception as error:  # The payload has run by then, or the test will say so.
            print(name, type(error).__name__, error, file=sys.stderr)


if __name__ == "__main__":
    detonate_all(Path(sys.argv[1]))
