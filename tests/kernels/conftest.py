"""Tests of the Triton programs on the CPU: ``TRITON_INTERPRET=1 python -m pytest tests/kernels``.

Triton decides when it is imported whether it compiles or interprets, so these tests have a process
of their own; ``tests/unit/moe_core/test_interpreted.py`` starts it.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

SMALL = (16, 16, 16)
"""Rows, columns and depth of every tile: small inputs have several, and ragged ones."""


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from moe_core.kernels.gpu import tuned

    tile = tuned.Tile(*SMALL, group=2, warps=4, stages=2)
    entries = [tuned.Entry(itemsize, False, 0, tile) for itemsize in (2, 4)]
    small = tuned.Tuned(2**30, dict.fromkeys(tuned.tuned().entries, entries))
    monkeypatch.setattr(tuned, "_read", lambda: small)


@pytest.fixture
def explicit_gather(monkeypatch: pytest.MonkeyPatch, small_tiles: None) -> None:
    from moe_core.kernels.gpu import tuned

    small = tuned._read()._replace(explicit_gather_from=0)
    monkeypatch.setattr(tuned, "_read", lambda: small)
