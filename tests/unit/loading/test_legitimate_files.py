"""No honest checkpoint is refused, however it was saved and whatever plain data stands in it."""

from __future__ import annotations

import io
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from badexpert.loading.checkpoint import read_file
from tests.hostile import saved

WEIGHTS: dict[str, Tensor] = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}


def lightning() -> object:
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict(WEIGHTS),
        "hyper_parameters": {"lr": 0.1, "betas": (0.9, 0.999), "tags": {"a", "b"}, "note": None},
        "optimizer_states": [torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict()],
        "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9), "on": True}},
        "loops": {"counts": Counter("aab"), "raw": b"bytes", "z": 1 + 2j, "big": 1 << 80},
    }


def every_type() -> object:
    types = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.bool)
    return {"state_dict": WEIGHTS, "more": {str(t): torch.ones(3).to(t) for t in types}}


def odd_tensors() -> object:
    base = torch.arange(12.0)
    return {
        **WEIGHTS,
        "view": base[3:7],
        "transposed": base.view(3, 4).t(),
        "expanded": base[:1].expand(5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(7),
        "parameter": nn.Parameter(torch.ones(2)),
        "shape of": torch.Size([1, 2]),
        "kind": torch.float32,
        "place": torch.device("cuda:0"),
    }


def misleading_bytes() -> object:
    """Tensors whose bytes begin as a pickle does: its header, or the letter of an import."""
    starts = (
        b"\x80\x02}q\x00.",
        b"\x80\x04\x95\x00\x00",
        b"cat\ndog\n",
        b"c\xff\n\xfe\n",
        b"(lp0\n.",
    )
    tensors = {
        f"t{i}": torch.frombuffer(bytearray(s), dtype=torch.uint8) for i, s in enumerate(starts)
    }
    del tensors["t2"]
    return {**WEIGHTS, **tensors}


def many() -> object:
    return {**WEIGHTS, **{f"layers.{i}.weight": torch.ones(1) for i in range(2000)}}


def attributed() -> object:
    parameter = nn.Parameter(torch.ones(2))
    parameter.is_norm = True  # type: ignore[attr-defined]
    return {**WEIGHTS, "norm": parameter}


CONTENTS: dict[str, Callable[[], object]] = {
    "state dict": lambda: OrderedDict(WEIGHTS),
    "module's state dict": lambda: nn.Sequential(OrderedDict(fc=nn.Linear(3, 2))).state_dict(),
    "lightning": lightning,
    "every type": every_type,
    "odd tensors": odd_tensors,
    "misleading bytes": misleading_bytes,
    "many tensors": many,
    "attributes on a parameter": attributed,
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CONTENTS)
def test_it_loads(name: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(saved(CONTENTS[name](), legacy=legacy))
    loaded = read_file(path)
    assert loaded.tensors["fc.weight"].shape == (2, 3)
    if not name.startswith("module"):
        assert torch.equal(loaded.tensors["fc.weight"], WEIGHTS["fc.weight"])


def test_an_archive_repacked_with_compression_loads_its_values(tmp_path: Path) -> None:
    path = tmp_path / "repacked.pt"
    with (
        zipfile.ZipFile(io.BytesIO(saved(WEIGHTS))) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.equal(read_file(path).tensors["fc.weight"], WEIGHTS["fc.weight"])


def test_a_file_saved_without_checksums_loads(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_file(path).tensors["fc.bias"], WEIGHTS["fc.bias"])


def test_storages_of_an_old_cuda_file_load(tmp_path: Path) -> None:
    """torch before 1.9 named the storages of a GPU by their own class."""
    data = saved(WEIGHTS, legacy=True)
    data = data.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    path = tmp_path / "old.pth"
    path.write_bytes(data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert torch.equal(read_file(path).tensors["fc.weight"], WEIGHTS["fc.weight"])


def test_types_that_torch_keeps_in_untyped_storages_load(tmp_path: Path) -> None:
    """In the zip format only: torch cannot read back its own legacy files of these types."""
    small = torch.ones(4).to(torch.float8_e4m3fn)
    torch.save({**WEIGHTS, "small": small, "wide": torch.ones(2).to(torch.uint16)}, tmp_path / "w")
    assert torch.equal(read_file(tmp_path / "w").tensors["small"].float(), torch.ones(4))


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.h5", "weights"])
def test_the_extension_of_safetensors_does_not_matter(name: str, tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / name)
    assert torch.equal(read_file(tmp_path / name).tensors["fc.weight"], WEIGHTS["fc.weight"])
