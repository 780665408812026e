from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from badexpert.copies import Copies, safe_name
from badexpert.errors import ConfigError


@given(st.text(max_size=300), st.integers(0, 10**9))
def test_a_name_stays_in_its_folder(item_id: str, index: int) -> None:
    name = safe_name(index, item_id)
    assert Path(name).name == name
    assert name.isascii()
    assert name.isprintable()
    assert " " not in name
    assert not name.startswith(".")
    assert len(name) < 120


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_copy_is_what_the_model_saw(tmp_path: Path, channels: int, dtype: torch.dtype) -> None:
    pixels = torch.arange(channels * 20, dtype=torch.uint8).view(channels, 4, 5)
    given_pixels = pixels if dtype == torch.uint8 else pixels / 255
    Copies(tmp_path / "new" / "folder").add(7, "../a b/x.jpg", given_pixels)
    [path] = (tmp_path / "new" / "folder").iterdir()
    assert path.name == "0000007-..-a-b-x.png"
    found = np.asarray(Image.open(path)).reshape(4, 5, channels)
    assert np.array_equal(found, pixels.permute(1, 2, 0).numpy())


def test_equal_ids_do_not_collide(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    for index in range(3):
        copies.add(index, "same.png", torch.zeros(1, 2, 2))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        Copies(tmp_path / "file")
