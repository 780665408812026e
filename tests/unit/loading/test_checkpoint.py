"""Weights are found among all that training scripts save beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from badexpert.errors import ModelLoadError
from badexpert.loading.checkpoint import check_finite, read_checkpoint, read_file
from badexpert.loading.files import find_files

WEIGHTS = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}
AVERAGED = {"fc.weight": torch.full((2, 3), 2.0), "fc.bias": torch.zeros(2)}
MOMENTA = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


def read(content: Any, folder: Path) -> Any:
    torch.save(content, folder / "checkpoint")
    return read_file(folder / "checkpoint")


@pytest.mark.parametrize(
    ("content", "at"),
    [
        (WEIGHTS, ""),
        ({"state_dict": WEIGHTS, "epoch": 3}, "state_dict"),
        ({"model": WEIGHTS, "optimizer": MOMENTA, "best": torch.tensor(0.9)}, "model"),
        ({"net": WEIGHTS, "acc": 91.2}, "net"),
        ({"netC": WEIGHTS, "netG": AVERAGED, "optimizerC": MOMENTA}, "netC"),
        ({"model_state_dict": WEIGHTS, "optimizer_state_dict": MOMENTA}, "model_state_dict"),
        ({"weights": WEIGHTS, "loss": 0.1}, "weights"),
        ({"model": {"state_dict": WEIGHTS, "name": "net"}}, "model.state_dict"),
        ({"my own name": WEIGHTS, "epoch": 1}, "my own name"),
        ({**WEIGHTS, "epoch": 3, "name": "net"}, ""),
    ],
)
def test_usual_wrappings_are_opened(content: Any, at: str, tmp_path: Path) -> None:
    found = read(content, tmp_path)
    assert found.weights_at == at
    assert torch.equal(found.tensors["fc.weight"], WEIGHTS["fc.weight"])


@pytest.mark.parametrize("name", ["ema", "model_ema", "state_dict_ema"])
def test_averaged_weights_ship_and_the_others_are_mentioned(name: str, tmp_path: Path) -> None:
    found = read({"state_dict": WEIGHTS, name: AVERAGED, "optimizer": MOMENTA}, tmp_path)
    assert torch.equal(found.tensors["fc.weight"], AVERAGED["fc.weight"])
    assert found.weights_at == name
    assert found.other_weights == ("state_dict",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"teacher": WEIGHTS, "student": AVERAGED}, "several sets of weights: teacher, student"),
        ({"epoch": 3}, "holds no weights"),
        ([1, 2], "holds list"),
        (torch.ones(3), "holds Tensor"),
        ({}, "holds no weights"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=says):
        read(content, tmp_path)


def test_a_whole_pickled_module_is_refused_by_its_class_with_what_to_do(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "whole.pt")
    with pytest.raises(ModelLoadError, match=r"torch\.nn\.modules\.linear\.Linear.*save_file"):
        read_file(tmp_path / "whole.pt")


def test_quantised_and_sparse_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="sparse"):
        read({"w": torch.eye(3).to_sparse()}, tmp_path)


def test_nan_is_refused_by_name() -> None:
    tensors = {"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}
    tensors |= {"worse": torch.tensor([float("inf")]), "whole": torch.tensor([3])}
    with pytest.raises(ModelLoadError, match="2 tensors hold NaN or infinity: bad, worse"):
        check_finite(tensors)


# Safetensors.


def rewrite_header(path: Path, change: Any) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def overlap(header: Any) -> None:
    header["fc.weight"]["data_offsets"] = [0, 24]
    header["fc.bias"]["data_offsets"] = [16, 24]


def test_overlapping_safetensors_are_refused(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "m.safetensors")
    rewrite_header(tmp_path / "m.safetensors", overlap)
    with pytest.raises(ModelLoadError, match="damaged safetensors"):
        read_file(tmp_path / "m.safetensors")


def test_safetensors_truncated_in_the_header_say_how_much_is_missing(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[:40])
    with pytest.raises(ModelLoadError, match="truncated.*the file has 40"):
        read_file(tmp_path / "m.safetensors")


def test_empty_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "m.safetensors")
    with pytest.raises(ModelLoadError, match="holds no tensors"):
        read_file(tmp_path / "m.safetensors")


# Folders and shards.


def shard(folder: Path, weight_map: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (name, tensor) in enumerate(WEIGHTS.items(), start=1):
        save_file({name: tensor}, folder / f"model-{number}.safetensors")
    default = {"fc.weight": "model-1.safetensors", "fc.bias": "model-2.safetensors"}
    index = {"metadata": {}, "weight_map": weight_map or default}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_put_together(tmp_path: Path) -> None:
    found = read_checkpoint(find_files(shard(tmp_path)))
    assert set(found.tensors) == set(WEIGHTS)


def test_a_tensor_that_no_shard_holds_is_missed(tmp_path: Path) -> None:
    weight_map = {"fc.weight": "model-1.safetensors", "fc.more": "model-2.safetensors"}
    with pytest.raises(ModelLoadError, match=r"fc\.more"):
        read_checkpoint(find_files(shard(tmp_path, weight_map)))


@pytest.mark.parametrize("style", ["relative", "absolute", "link"])
def test_shards_outside_the_folder_are_refused(style: str, tmp_path: Path) -> None:
    save_file({"fc.bias": torch.zeros(2)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    names = {"relative": "../secret.safetensors", "link": "link.safetensors"}
    name = names.get(style, str(tmp_path / "secret.safetensors"))
    shard(folder, {"fc.weight": "model-1.safetensors", "fc.bias": name})
    with pytest.raises(ModelLoadError, match="outside the model's folder"):
        find_files(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="lacks the file 'gone.safetensors'"):
        find_files(shard(tmp_path, {"fc.weight": "gone.safetensors"}))


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"index\.json"):
        find_files(tmp_path)


def test_links_of_a_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    save_file(WEIGHTS, repository / "blobs" / "1234")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    assert set(read_checkpoint(find_files(snapshot)).tensors) == set(WEIGHTS)


@pytest.mark.parametrize(
    ("names", "says"),
    [((), "holds no model"), (("a.pt", "b.pt"), "several models: a.pt, b.pt")],
)
def test_a_folder_must_hold_one_model(names: tuple[str, ...], says: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no model")
    for name in names:
        torch.save(WEIGHTS, tmp_path / name)
    with pytest.raises(ModelLoadError, match=says):
        find_files(tmp_path)


def test_a_folder_with_one_file_of_weights_is_that_model(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "best.pth")
    assert find_files(tmp_path).weights == (tmp_path / "best.pth",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"GGUF\x03\x00", "GGUF"),
        (b"\x08\x07\x12\x07pytorch", "ONNX"),
        (b"\x1f\x8b\x08\x00", "Unpack it"),
        (b"nothing that anybody knows", "unknown format"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    content: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ModelLoadError, match=says):
        read_file(tmp_path / "model.pt")
