"""Tests of the Triton programs on the CPU: ``TRITON_INTERPRET=1 python -m pytest tests/kernels``.

Triton decides when it is imported whether it compiles or interprets, so these tests have a process
of their own; ``tests/unit/moe_core/test_interpreted.py`` starts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from moe_core.kernels.gpu.tuned import Tuned

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

SMALL = (16, 16, 16)
"""Rows, columns and depth of every tile: small inputs have several, and ragged ones."""


@pytest.fixture(autouse=True)
def small_tiles() -> Iterator[Tuned]:
    """Wherever gather is fused."""
    from moe_core.kernels.gpu import tuned

    tile = tuned.Tile(*SMALL, group=2, warps=4, stages=2)
    entries = [tuned.Entry(itemsize, False, 0, tile) for itemsize in (2, 4)]
    small = tuned.Tuned(2**30, dict.fromkeys(tuned.tuned().entries, entries))
    with tuned.tuned_as(small):
        yield small


@pytest.fixture
def explicit_gather(small_tiles: Tuned) -> Iterator[None]:
    """For experts of any width."""
    from moe_core.kernels.gpu import tuned

    with tuned.tuned_as(small_tiles._replace(explicit_gather_from=0)):
        yield
