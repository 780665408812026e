"""Compile every program as a Hopper GPU would get it, where there is none.

``python -m moe_core.kernels.gpu.gate`` prints what the assembler says of each, and ends with 1
where one spills registers, needs more shared memory than there is, or misses the matrix units.
Programs are not described a second time here: the functions that launch them are called, and what
they would launch is compiled instead.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from moe_core.kernels.gpu import experts, products, routing
from moe_core.kernels.gpu.plan import Plan, make_plan, make_tiles
from moe_core.kernels.gpu.products import Job
from moe_core.kernels.told import Constants

SHARED_MEMORY = 227 * 1024
"""Bytes that a program may have on compute capability 9.0."""

_TARGET = GPUTarget("cuda", 90, 32)
CASES = (
    ("many rows", 1024, 512, True),
    ("many rows, explicit gather", 1024, 512, False),
    ("few rows", 16, 512, True),
    ("tiles that do not fit", 1024, 520, True),
    ("rows that are not aligned", 16, 513, True),
)
"""Name, rows of each expert, width, and whether the gather is fused."""

_LIMITS = re.compile(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)")


class Compiled(NamedTuple):
    """A program as it was compiled.

    Attributes:
        name: of the program.
        case: for which inputs.
        tile: rows, columns and depth, or None for a program without a product.
        registers: of a thread.
        spilled: bytes of a thread that did not fit into registers.
        shared: bytes of memory that a program's threads share.
        wgmma: instructions for the matrix units of this generation.
    """

    name: str
    case: str
    tile: tuple[int, int, int] | None
    registers: int
    spilled: int
    shared: int
    wgmma: int

    @property
    def faults(self) -> list[str]:
        """What must not be; empty for a program that may ship."""
        found = []
        if self.spilled:
            found.append(f"spills {self.spilled} bytes")
        if self.shared > SHARED_MEMORY:
            found.append(f"needs {self.shared} bytes of shared memory of {SHARED_MEMORY}")
        if self.tile and not self.wgmma and "float32" not in self.case:
            found.append("does not use the matrix units")
        return found


def compile_all(
    dtypes: tuple[torch.dtype, ...], cases: Collection[str] | None = None
) -> Iterator[Compiled]:
    """Every program in every tuned configuration, with and without gather and descriptors.

    Args:
        cases: names of ``CASES``; None for all.
    """
    for dtype in dtypes:
        for case, rows, width, gather in CASES:
            if cases is not None and case not in cases:
                continue
            yield from _compiled(f"{dtype}, {case}", partial(_products, dtype, rows, width, gather))
    yield from _compiled("every dtype", _without_products)


def _products(dtype: torch.dtype, rows: int, width: int, gather: bool) -> None:
    """Launch all programs that hold a product, on 2 experts with so many rows each."""
    slots, inner = 2, width
    x = torch.empty(rows, width, dtype=dtype)
    gate_up, down = (
        torch.empty(2, 2 * inner, width, dtype=dtype),
        torch.empty(2, width, inner, dtype=dtype),
    )
    plan = Plan(*(torch.zeros(size, dtype=torch.int32) for size in (slots * rows, rows, 2)))
    job = Job(plan, slots)
    source = x if gather else torch.empty(slots * rows, width, dtype=dtype)
    pre, act = products.up(job, source, gate_up, gather=gather, save=True)
    products.up(job, source, gate_up, gather=gather, save=False)
    products.rows_product(job, act, down, depth_first=False)
    scores = torch.empty(rows, slots)
    grad_pre, act, _ = products.inner_gradient(job, source, down, scores, pre, gather=gather)
    products.weight_gradient(job, source, act, gather_a=gather, gather_b=False)
    products.weight_gradient(job, grad_pre, source, gather_a=False, gather_b=gather)
    products.rows_product(job, grad_pre, gate_up, depth_first=True)


def _without_products() -> None:
    tokens, slots, num_experts, width = 64, 8, 128, 2048
    plan = make_plan(torch.zeros(tokens, slots, dtype=torch.int64), num_experts)
    make_tiles(plan, 128)
    y, x = (torch.empty(rows, width, dtype=torch.bfloat16) for rows in (tokens * slots, tokens))
    chosen = torch.zeros(tokens, slots, dtype=torch.int64)
    constants = Constants(
        torch.zeros(num_experts, dtype=torch.bool), torch.empty(num_experts, width)
    )
    weights, direction = torch.empty(tokens, slots), torch.empty(width)
    experts.combined(y, plan, x, weights, chosen, None, None, audit=False)
    experts.combined(y, plan, x, weights, chosen, None, None, audit=True)
    experts.combined(y, plan, x, weights, chosen, constants, direction, audit=True)
    experts.combined(y, plan, x, None, chosen, None, None, audit=False)
    for experts_of_layer in (8, 64, 128, 256):
        logits = torch.empty(tokens, experts_of_layer)
        bias = torch.empty(experts_of_layer)
        for sigmoid in (False, True):
            for extra in (None, bias):
                routing.route(logits, slots, sigmoid, True, extra, None, None)
        excluded, override = bias.bool(), torch.zeros(tokens, slots, dtype=torch.int64)
        routing.route(logits, slots, False, False, None, excluded, override)


def _compiled(case: str, launches: Any) -> Iterator[Compiled]:
    with _instead_of_launching() as kernels:
        launches()
    # A program that is launched twice in one way is compiled once.
    for name, constants, kernel in {
        id(kernel): rest for rest in kernels for kernel in rest[2:]
    }.values():
        yield _read(name, case, constants, kernel)


@contextmanager
def _instead_of_launching() -> Iterator[list[tuple[str, dict[str, Any], Any]]]:
    """Collect what is launched inside as (name, keywords, compiled kernel), and launch nothing."""
    seen: list[tuple[str, dict[str, Any], Any]] = []
    run, active = JITFunction.run, driver._active

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **keywords)
        seen.append((self.__name__, keywords, kernel))

    JITFunction.run = compile_only
    driver.set_active(_Hopper())
    try:
        yield seen
    finally:
        JITFunction.run = run
        driver._active = active


class _Hopper:
    """As much of a driver as compiling asks for."""

    def get_current_device(self) -> str:
        return "gate"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return _TARGET


def _read(name: str, case: str, constants: dict[str, Any], kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    limits = _LIMITS.search(told)
    if limits is None:
        raise RuntimeError(f"cuobjdump says nothing of the registers of {name}:\n{told}")
    registers, stack, local = map(int, limits.groups())
    return Compiled(
        name=name,
        case=case,
        tile=(constants["BM"], constants["BN"], constants["BK"]) if "BM" in constants else None,
        registers=registers,
        spilled=stack + local,
        shared=kernel.metadata.shared,
        wgmma=kernel.asm["ptx"].count("wgmma.mma_async"),
    )


def main() -> int:
    """Print one line a program; 1 if any has a fault."""
    faulty = 0
    print(f"triton {triton.__version__}, sm_90a")
    for one in dict.fromkeys(compile_all((torch.bfloat16, torch.float16, torch.float32))):
        faulty += bool(one.faults)
        print(
            f"{one.name:<16}{'×'.join(map(str, one.tile or ())):<12}{one.registers:>4} registers"
            f"{one.spilled:>6} spilled{one.shared // 1024:>5} KiB{one.wgmma:>4} wgmma  {one.case}"
            f"{'  <- ' + ', '.join(one.faults) if one.faults else ''}",
            flush=True,
        )
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
