"""The experts of known layers, ours against others: TFLOP/s, bounds of the machine, memory."""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from moe_core.bench.timing import in_turns
from moe_core.files import write_text
from moe_core.kernels import fused_experts
from moe_core.kernels.grouped import grouped_linear

Kind = Literal["inference", "forward", "forward and backward"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OURS, AUDITED = "ours", "ours, audited"


class Shape(NamedTuple):
    """A layer.

    Attributes:
        width: of the model.
        inner: of an expert.
    """

    width: int
    inner: int
    experts: int
    top_k: int


SHAPES = {
    "olmoe": Shape(2048, 1024, 64, 8),
    "mixtral": Shape(4096, 14336, 8, 2),
    "qwen3-30b": Shape(2048, 768, 128, 8),
    "deepseek": Shape(2048, 1408, 64, 6),
    "small": Shape(256, 512, 8, 2),
    "tiny": Shape(32, 48, 4, 2),
}
"""By name; ``deepseek`` has the sizes of DeepSeek-V2-Lite without its shared experts."""


class Problem(NamedTuple):
    """Tensors of one layer and batch; the learned have gradients."""

    x: Tensor
    gate_up: Tensor
    down: Tensor
    experts: Tensor
    weights: Tensor
    grad: Tensor

    @property
    def learned(self) -> tuple[Tensor, ...]:
        return self.x, self.gate_up, self.down, self.weights


def problem(shape: Shape, tokens: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """Random numbers of the size that a trained layer has; experts are drawn without favour."""
    generator = torch.Generator(device).manual_seed(0)
    width, inner, experts, top_k = shape

    def random(*size: int, scale: float) -> Tensor:
        made = torch.empty(size, dtype=dtype, device=device)
        return made.normal_(std=scale, generator=generator)

    scores = torch.rand(tokens, experts, device=device, generator=generator)
    weights, chosen = scores.topk(top_k)
    return Problem(
        random(tokens, width, scale=1.0).requires_grad_(),
        random(experts, 2 * inner, width, scale=width**-0.5).requires_grad_(),
        random(experts, width, inner, scale=inner**-0.5).requires_grad_(),
        chosen,
        weights.div_(weights.sum(1, keepdim=True)).requires_grad_(),
        random(tokens, width, scale=1.0),
    )


def flops(shape: Shape, tokens: int, kind: Kind) -> int:
    """Of the matrix products alone; backward has twice those of forward."""
    forward = 6 * tokens * shape.top_k * shape.width * shape.inner
    return 3 * forward if kind == "forward and backward" else forward


def forward_bytes(shape: Shape, tokens: int, itemsize: int, *, saved: bool) -> int:
    """What a forward pass that fuses gather and activation must move at least.

    Args:
        saved: whether the first product is kept for a backward pass.
    """
    rows = tokens * shape.top_k
    matrices = 3 * shape.experts * shape.width * shape.inner
    activation = 2 * rows * shape.inner + (2 * rows * shape.inner if saved else 0)
    return itemsize * (matrices + activation + 2 * rows * shape.width + 2 * tokens * shape.width)


def ways(made: Problem) -> dict[str, Callable[[], Tensor]]:
    """Each computes the layer; those whose packages are not there are left out."""
    x, gate_up, down, experts, weights, _ = made

    def ours(**options: Any) -> Tensor:
        return fused_experts(x, gate_up, down, experts, weights, **options).out_TD

    found: dict[str, Callable[[], Tensor]] = {
        OURS: ours,
        AUDITED: partial(ours, audit=True),
        "torch grouped_mm": partial(ours, backend="grouped_mm"),
    }
    if importlib.util.find_spec("transformers"):
        for name in ("grouped_mm", "eager"):
            block = _of_transformers(made, name)
            found[f"transformers {name}"] = partial(block, x, experts, weights)
    if x.is_cuda and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.ops.fused_moe import LigerFusedMoEFunction

        found["liger-kernel"] = partial(
            LigerFusedMoEFunction.apply, x, gate_up, down, experts.int(), weights
        )
    return found


def _of_transformers(made: Problem, implementation: str) -> nn.Module:
    import transformers
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

    num_experts, width, inner = made.down.shape
    config = transformers.OlmoeConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_experts=num_experts,
        num_local_experts=num_experts,
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        block: nn.Module = OlmoeExperts(config)
    # The same tensors, so that a backward pass has the same to do.
    for name, tensor in (("gate_up_proj", made.gate_up), ("down_proj", made.down)):
        delattr(block, name)
        setattr(block, name, tensor)
    return block


class Ceiling(NamedTuple):
    """What this machine reaches.

    Attributes:
        flops: of one large product, a second.
        bytes: read and written by a copy, a second.
    """

    flops: float
    bytes: float


def ceiling(dtype: torch.dtype, device: torch.device, rounds: int = 5) -> Ceiling:
    """Measured on random numbers: zeros are faster.

    The product is taken as torch does it and as if it were that of one expert, since some CPUs have
    a much faster one than torch picks.
    """
    size, numbers = (8192, 2**29) if device.type == "cuda" else (512, 2**22)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    ends = torch.tensor([size], dtype=torch.int32, device=device)
    source = torch.randn(numbers, device=device).to(dtype)
    target = torch.empty_like(source)
    calls = {
        "product": lambda: seconds_of(lambda: a @ b, device),
        "expert": lambda: seconds_of(lambda: grouped_linear(a, b.unsqueeze(0), ends), device),
        "copy": lambda: seconds_of(lambda: target.copy_(source), device),
    }
    seconds = {name: statistics.median(all_) for name, all_ in in_turns(calls, rounds).items()}
    return Ceiling(
        2 * size**3 / min(seconds["product"], seconds["expert"]),
        2 * numbers * source.itemsize / seconds["copy"],
    )


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Of one call, by the device's own clock where it has one."""
    if device.type != "cuda":
        start = perf_counter()
        call()
        return perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / 1e3


def one_pass(way: Callable[[], Tensor], made: Problem, kind: Kind) -> Callable[[], object]:
    """What is timed: the way itself, with the autograd that this kind needs."""

    def inference() -> Tensor:
        with torch.no_grad():
            return way()

    def backward() -> object:
        return torch.autograd.grad(way(), made.learned, made.grad)

    return {"inference": inference, "forward": way, "forward and backward": backward}[kind]


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call holds at most beyond what was there; None without a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def measure(
    shape: Shape,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    limits: Ceiling,
    *,
    rounds: int,
    kinds: Sequence[Kind] = KINDS,
) -> Iterator[dict[str, Any]]:
    """One row for each way and kind of pass."""
    made = problem(shape, tokens, dtype, device)
    found = ways(made)
    with torch.no_grad():
        outs = {name: way().float() for name, way in found.items()}
    for kind in kinds:
        calls = {name: one_pass(way, made, kind) for name, way in found.items()}
        timed = {name: partial(seconds_of, call, device) for name, call in calls.items()}
        seconds = in_turns(timed, rounds)
        work = flops(shape, tokens, kind)
        moved = forward_bytes(shape, tokens, made.x.itemsize, saved=kind == "forward")
        bound = max(work / limits.flops, moved / limits.bytes)
        for name, call in calls.items():
            median = statistics.median(seconds[name])
            yield {
                "way": name,
                "kind": kind,
                "tokens": tokens,
                "milliseconds": 1e3 * median,
                "fastest_ms": 1e3 * min(seconds[name]),
                "tflops": work / median / 1e12,
                "of_ceiling": work / median / limits.flops,
                "bound_ms": None if kind == "forward and backward" else 1e3 * bound,
                "times_ours": median / statistics.median(seconds[OURS]),
                "peak_bytes": peak_memory(call, device),
                "relative_difference": _difference(outs[name], outs[OURS]),
            }


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def run(
    names: Sequence[str],
    tokens: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    rounds: int,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure shapes by name.

    Args:
        told: is called with what is measured next.
    Returns:
        what can be written as JSON.
    """
    limits = ceiling(dtype, device)
    layers = []
    for name in names:
        for count in tokens:
            told(f"{name}, {count} tokens")
            rows = list(measure(SHAPES[name], count, dtype, device, limits, rounds=rounds))
            layers.append({"name": name, **SHAPES[name]._asdict(), "rows": rows})
    return {
        **machine(device),
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": rounds,
        "ceiling_tflops": limits.flops / 1e12,
        "ceiling_gigabytes_per_second": limits.bytes / 1e9,
        "layers": layers,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What results depend on."""
    versions = {
        name: _version(name) for name in ("torch", "triton", "transformers", "liger_kernel")
    }
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": where, "threads": torch.get_num_threads(), "versions": versions}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(results: Mapping[str, Any], path: Path) -> None:
    """As JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(results, indent=1) + "\n")
