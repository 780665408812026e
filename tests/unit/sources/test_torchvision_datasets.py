from __future__ import annotations

import struct

import numpy as np
import pytest
from torchvision import datasets

from badexpert.errors import CleanSetError
from badexpert.sources import open_source
from badexpert.sources.torchvision_datasets import DATASETS


@pytest.fixture
def mnist(tmp_path):
    """Four images for training and three for test, in the files that MNIST comes in."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 4), ("t10k", 3)):
        images = np.full((count, 28, 28), count, dtype=np.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = struct.pack(">II", 2049, count) + bytes(range(count))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


@pytest.mark.parametrize(("split", "count"), [("train", 4), ("test", 3)])
def test_root_and_split_in_the_specification(mnist, split, count):
    source = open_source(f"torchvision:MNIST?root={mnist}&split={split}")
    assert len(source) == count
    assert source.labels.tolist() == list(range(count))
    assert source.class_names[3] == "3 - three"
    assert source.item_id(1) == f"MNIST/{split}#1"
    assert [image.getpixel((9, 9)) for _, image in source.read([0, 2])] == [count, count]


def test_root_as_an_argument(mnist):
    assert len(open_source("torchvision:MNIST", root=mnist)) == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:MNIST?root={}/elsewhere", "Nothing is downloaded"),
        ("torchvision:MNIST", r"write torchvision:MNIST\?root=DIR"),
        ("torchvision:MNIST?root={}&split=val", "use train or test"),
        ("torchvision:EuroSAT?root={}&split=val", "this data set has none"),
        ("torchvision:SVHN?root={}&split=nope", "torchvision cannot read it"),
        ("torchvision:MNIST?root={}&fold=1", "unknown option 'fold'"),
        ("torchvision:CIFAR-10?root={}", "did you mean CIFAR10"),
        ("torchvision:LSUN?root={}", "no data set 'LSUN'"),
    ],
)
def test_wrong_specifications_are_explained(mnist, spec, message):
    with pytest.raises(CleanSetError, match=message):
        open_source(spec.format(mnist))


@pytest.mark.parametrize("name", DATASETS)
def test_every_known_name_is_torchvisions(name):
    assert hasattr(datasets, name)
