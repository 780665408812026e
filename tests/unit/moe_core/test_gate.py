"""Every program compiles for an H100, without one, and without spilled registers."""

from __future__ import annotations

import importlib.util

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is for Linux"
)
_PRODUCTS = {"up", "rows_product", "inner_gradient", "weight_gradient"}


def faults(*dtypes: torch.dtype, cases: list[str] | None = None) -> tuple[list[str], set[str]]:
    from moe_core.kernels.gpu.gate import compile_all

    compiled = list(compile_all(dtypes, cases))
    found = [f"{one.name}, {one.case}: {fault}" for one in compiled for fault in one.faults]
    return found, {one.name for one in compiled}


def test_programs_in_bfloat16_fit_the_gpu() -> None:
    found, names = faults(torch.bfloat16, cases=["many rows", "few rows"])
    assert not found
    assert names == _PRODUCTS | {"count", "place", "tiles", "combine", "router"}


@pytest.mark.slow
def test_programs_in_every_dtype_and_for_every_alignment_fit_the_gpu() -> None:
    found, _ = faults(torch.bfloat16, torch.float16, torch.float32)
    assert not found


def test_faults_are_named() -> None:
    from moe_core.kernels.gpu.gate import SHARED_MEMORY, Compiled

    bad = Compiled("up", "torch.bfloat16", (128, 128, 64), 255, 8, SHARED_MEMORY + 1, 0)
    assert bad.faults == [
        "spills 8 bytes",
        "needs 232449 bytes of shared memory of 232448",
        "does not use the matrix units",
    ]
    assert not bad._replace(spilled=0, shared=SHARED_MEMORY, wgmma=4).faults
