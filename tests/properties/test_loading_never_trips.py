"""Whatever the bytes, reading a checkpoint ends in tensors or in a ModelLoadError."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from badexpert.errors import ModelLoadError
from badexpert.loading.checkpoint import Checkpoint, read_file
from tests.hostile import benign, saved

SEEDS = {
    "zip": saved(benign()),
    "legacy": saved(benign(), legacy=True),
    "safetensors": save_safetensors(benign()),
}


def read(data: bytes) -> Checkpoint | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suspect"
        path.write_bytes(data)
        try:
            return read_file(path)
        except ModelLoadError:
            return None


@pytest.mark.parametrize("kind", SEEDS)
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    )
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_changed_bytes(kind: str, edits: list[tuple[float, int]]) -> None:
    data = bytearray(SEEDS[kind])
    for where, value in edits:
        data[int(where * len(data))] = value
    loaded = read(bytes(data))
    assert loaded is None or loaded.tensors


@pytest.mark.parametrize("kind", SEEDS)
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_truncated_file_is_always_refused(kind: str, share: float) -> None:
    assert read(SEEDS[kind][: int(share * len(SEEDS[kind]))]) is None


@pytest.mark.parametrize("kind", SEEDS)
@given(tail=st.binary(min_size=1, max_size=40))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_bytes_behind_the_end_are_always_refused(kind: str, tail: bytes) -> None:
    assert read(SEEDS[kind] + tail) is None


@given(data=st.binary(max_size=300))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_random_bytes_are_refused(data: bytes) -> None:
    assert read(data) is None
