"""One layer on the CPU against transformers: ``python -m moe_core.bench.layer``.

Needs transformers 5, which moe_core itself does not: ``pip install 'transformers>=5'``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import perf_counter

import torch
import transformers
from torch import Tensor, nn
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

from moe_core.bench.program import run
from moe_core.bench.timing import Ratio, arguments, in_turns, write
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK

OURS = "moe_core"
PEERS = ("eager", "grouped_mm")
"""Ways of transformers to compute experts."""


def build(given: argparse.Namespace) -> MoELayer:
    """The layer to be measured, with random weights."""
    router = SoftmaxTopK(given.dim, given.experts, given.top_k)
    experts = SwiGLUExperts(given.dim, given.inner_dim, given.experts)
    return MoELayer(router, experts).to(getattr(torch, given.dtype))


def peer(layer: MoELayer, implementation: str) -> nn.Module:
    """The block of OLMoE on the same weight tensors."""
    config = transformers.OlmoeConfig(
        hidden_size=layer.experts.dim,
        intermediate_size=layer.experts.inner_dim,
        num_experts=layer.num_experts,
        num_local_experts=layer.num_experts,
        num_experts_per_tok=layer.top_k,
        norm_topk_prob=True,
    )
    config._experts_implementation = implementation
    block: nn.Module = OlmoeSparseMoeBlock(config)
    state = {name.replace("router.", "gate."): part for name, part in layer.named_parameters()}
    block.load_state_dict(state, assign=True)
    return block


class Pass:
    """Forward and backward, timed apart, from gradients that are None."""

    def __init__(self, run: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> None:
        self._run = run
        self._module = module
        self._x = x
        self._grad = torch.randn_like(x)
        self.forward: list[float] = []

    def __call__(self) -> float:
        self._module.zero_grad(set_to_none=True)
        x = self._x.clone().requires_grad_()
        start = perf_counter()
        y = self._run(x)
        middle = perf_counter()
        y.backward(self._grad)
        end = perf_counter()
        self.forward.append(middle - start)
        return end - start

    def output(self) -> Tensor:
        """Of the input, without gradient."""
        with torch.no_grad():
            return self._run(self._x)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    given = arguments("layer", __doc__, rounds=9).parse_args(argv)
    torch.manual_seed(0)
    layer = build(given)
    x = torch.randn(1, given.tokens, given.dim, dtype=getattr(torch, given.dtype))
    blocks = {name: peer(layer, name) for name in PEERS}
    passes = {OURS: Pass(lambda x: layer(x).hidden, layer, x)}
    passes |= {name: Pass(block, block, x) for name, block in blocks.items()}
    seconds = in_turns(passes, given.rounds)
    rows = {
        name: {
            "forward_ms": 1e3 * statistics.median(one.forward[1:]),
            "forward_backward_ms": 1e3 * statistics.median(seconds[name]),
            "times_ours": asdict(Ratio.of(seconds[name], seconds[OURS])),
            "largest_difference": (one.output() - passes[OURS].output()).abs().max().item(),
        }
        for name, one in passes.items()
    }
    write(given, {"transformers": transformers.__version__, "layers": rows})
    print("             forward  forward+backward  times ours (lowest to highest)  difference")
    for name, row in rows.items():
        ratio = Ratio.of(seconds[name], seconds[OURS])
        print(
            f"{name:<11}{row['forward_ms']:>6.0f} ms{row['forward_backward_ms']:>15.0f} ms"
            f"{ratio.median:>12.2f} ({ratio.lowest:.2f} to {ratio.highest:.2f})"
            f"{row['largest_difference']:>18.1e}"
        )


if __name__ == "__main__":
    run(main)
