from __future__ import annotations

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from badexpert.errors import CleanSetError
from badexpert.preprocessing import Preprocessing
from badexpert.sources import Unreadable, open_source, stream

SIZE = Preprocessing(5, 6)


def saved(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def pixels(count=7, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)


def loaded(source, preprocessing=SIZE):
    return torch.cat([batch.inputs for batch in stream(source, preprocessing, batch_size=3)])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("image", "label"), [("images", "labels"), ("x", "y"), ("data", "target")])
def test_channels_last_under_every_name(tmp_path, image, label, compressed):
    path = saved(tmp_path / "a.npz", compressed, **{image: pixels(), label: np.arange(7)})
    source = open_source(path)
    assert source.labels.tolist() == list(range(7))
    assert source.item_id(3) == "a.npz#3"
    assert np.array_equal(loaded(source).permute(0, 2, 3, 1).numpy(), pixels())


def test_channels_first(tmp_path):
    source = open_source(saved(tmp_path / "a.npz", images=pixels().transpose(0, 3, 1, 2).copy()))
    assert source.labels is None
    assert np.array_equal(loaded(source).permute(0, 2, 3, 1).numpy(), pixels())


@pytest.mark.parametrize("axes", [(), (1,), (3,)])
def test_gray(tmp_path, axes):
    gray = pixels()[..., 0]
    np.savez(tmp_path / "a.npz", np.expand_dims(gray, axes))  # is named arr_0
    source = open_source(tmp_path / "a.npz")
    found = loaded(source, Preprocessing(5, 6, 1, (0.0,), (1.0,)))
    assert np.array_equal(found[:, 0].numpy(), gray)


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_either_range_become_unit_floats(tmp_path, dtype, white):
    array = (pixels() / 255 * white).astype(dtype)
    found = loaded(open_source(saved(tmp_path / "a.npz", images=array)))
    assert found.dtype == torch.float32
    assert np.allclose(found.permute(0, 2, 3, 1).numpy(), pixels() / 255, atol=1e-3)


def test_a_dark_beginning_never_brightens_what_follows(tmp_path):
    array = np.zeros((70, 5, 6, 3), dtype=np.float32)
    array[69] = 200
    items = dict(open_source(saved(tmp_path / "a.npz", images=array)).read([0, 69]))
    assert items[0].max() == 0
    assert items[69] == Unreadable("a.npz#69", "pixels of 200 to 200, not 0 to 1")


def test_not_a_number_is_unreadable(tmp_path):
    array = np.full((3, 5, 6, 3), 0.5, dtype=np.float32)
    array[1, 2, 2, 0] = np.nan
    items = [
        item for _, item in open_source(saved(tmp_path / "a.npz", images=array)).read(range(3))
    ]
    assert [isinstance(item, Unreadable) for item in items] == [False, True, False]


def test_some_items(tmp_path):
    source = open_source(saved(tmp_path / "a.npz", compressed=True, images=pixels(50)))
    for index, item in source.read([3, 4, 30, 49]):
        assert np.array_equal(item, pixels(50)[index])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.array([{}, {}])}, "pickled Python objects"),
        ({"images": pixels(), "labels": np.array([{}] * 7)}, "pickled Python objects"),
        ({"pictures": pixels()}, "holds the arrays pictures; none is named images"),
        ({"images": pixels().astype(np.int64)}, "images of int64"),
        ({"images": pixels()[..., :2]}, r"images of shape \(7, 5, 6, 2\)"),
        ({"images": np.zeros(())}, "images of shape"),
        ({"images": np.zeros((3, 0, 4))}, "images of shape"),
        ({"images": np.asfortranarray(pixels())}, "Fortran order"),
        ({"images": pixels(), "labels": np.arange(6)}, r"labels of shape \(6,\)"),
        ({"images": pixels(), "labels": np.eye(7)}, r"labels of shape \(7, 7\)"),
        ({"images": pixels(), "labels": np.zeros(7)}, "whole numbers"),
        ({"images": pixels() / 255 * 4 - 2}, "look normalised"),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path, arrays, message):
    with pytest.raises(CleanSetError, match=message):
        open_source(saved(tmp_path / "a.npz", **arrays))


def test_a_header_that_promises_more_than_there_is(tmp_path):
    np.save(tmp_path / "images.npy", pixels())
    data = (tmp_path / "images.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", data.replace(b"(7, 5, 6, 3)", b"(9, 5, 6, 3)"))
    with pytest.raises(CleanSetError, match=r"announces \(9, 5, 6, 3\)"):
        open_source(tmp_path / "a.npz")


def test_a_truncated_archive(tmp_path):
    path = saved(tmp_path / "a.npz", images=pixels())
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(CleanSetError, match="is damaged"):
        open_source(path)


def test_a_flipped_bit_in_the_data(tmp_path):
    path = saved(tmp_path / "a.npz", compressed=True, images=pixels(200))
    source = open_source(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(CleanSetError, match="is damaged"):
        list(source.read(range(200)))


@pytest.mark.parametrize("compressed", [False, True])
def test_the_array_is_never_in_memory_whole(tmp_path, compressed):
    array = pixels(40_000)
    path = saved(tmp_path / "a.npz", compressed, images=array, labels=np.zeros(40_000, np.int64))
    source = open_source(path)
    tracemalloc.start()
    for _ in source.read(range(len(source))):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 4
