"""The opcode walk sees what an unpickler would import, and agrees with torch on what is plain."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._weights_only_unpickler import _get_allowed_globals

from badexpert.loading.allowlist import ALLOWED_GLOBALS
from badexpert.loading.pickles import objections, scan_pickle

LEAVES = (
    st.sampled_from(
        [Decimal("1.5"), Fraction(1, 3), PurePosixPath("a/b"), OrderedDict(a=1), Counter("ab")]
    )
    | st.text(max_size=5)
    | st.integers()
    | st.binary(max_size=5)
    | st.sampled_from([set, len, str])
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


class Recorder(pickle.Unpickler):
    """The real unpickler, noting what it imports."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.imported: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        self.imported.append(f"{found.__module__}.{found.__qualname__}")
        return found


@given(content=OBJECTS, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_the_walk_names_every_import_of_the_real_unpickler(content: Any, protocol: int) -> None:
    data = pickle.dumps(content, protocol)
    real = Recorder(data)
    real.load()
    assert scan_pickle(data).imports == tuple(real.imported)
    assert scan_pickle(data).end == len(data)


def test_nothing_is_permitted_that_torch_forbids() -> None:
    assert set(_get_allowed_globals()) >= ALLOWED_GLOBALS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x02}.\x80\x02}.", "second pickle"),
        (b"\x80\x02}.garbage", "second pickle"),
        (b"\x80\x02\x82\x07.", "copyreg extension 7"),
        (b"\x80\x02}", "broken"),
        (b"", "broken"),
        (b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00}.", "FRAME"),
    ],
)
def test_what_is_more_or_less_than_one_plain_pickle_is_objected_to(
    data: bytes, reason: str
) -> None:
    assert reason in "; ".join(objections(data))


def test_plain_containers_meet_no_objection() -> None:
    content = {"a": [1, 2.5, None, True], "b": (1, {"x"}), "c": OrderedDict(d=b"raw")}
    assert objections(pickle.dumps(content, 2)) == []


def test_objections_name_few_of_many_imports() -> None:
    data = b"\x80\x02" + b"".join(f"cm\nn{i}\n0".encode() for i in range(50)) + b"}."
    assert "m.n0, m.n1, m.n2, m.n3, m.n4 and 45 more" in objections(data)[0]


def test_a_tensor_is_judged_by_its_type_not_by_its_bytes() -> None:
    buffer = io.BytesIO()
    torch.save(torch.ones(3), buffer, _use_new_zipfile_serialization=False)
    assert scan_pickle(buffer.getvalue()).refused_imports == ()
