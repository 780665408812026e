"""What chains around a shared central tensor keep of a matrix, and of a trained language model.

``python -m moe_core.bench.mpoe --text FILE --out FILE``
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from moe_core.bench.program import run
from moe_core.bench.small_lm import arguments, config_of, corpus, feed_forward, trained, training
from moe_core.bench.timing import write
from moe_core.experts.mpo import MPOExperts
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.lm.config import DENSE, FeedForward
from moe_core.lm.decoder import Decoder
from moe_core.mpo import Factors, decompose, parameter_ratio, reconstruct
from moe_core.routers.top_k import SoftmaxTopK
from moe_core.similarity import expert_similarity, mean_similarity
from moe_core.training.config import Stage, TrainingConfig
from moe_core.training.corpus import TextCorpus
from moe_core.training.run import start_stage
from moe_core.training.trainer import train, validate

T5 = Factors((4, 4, 8, 6, 4), (3, 4, 4, 4, 4))
"""How the paper factors a matrix of T5-base, 3072 x 768."""
T5_BONDS = (None, 256, 128, 64)
LM_BONDS = (None, 16, 8)
PLAIN, MEAN = "plain experts", "one mean expert"

Numbers = dict[str, float]


def decomposition(factors: Factors, experts: int) -> Numbers:
    """Of a matrix of independent normal numbers: nothing is harder to truncate.

    Returns:
        Parameters of a chain over those of the matrix; of ``experts`` chains with one central
        tensor over those of as many whole chains, and over those of as many matrices; Frobenius
        error over the norm of the matrix.
    """
    matrix = torch.randn(factors.shape, generator=torch.Generator().manual_seed(0))
    rebuilt = reconstruct(decompose(matrix, factors)[0])
    chain, shared = factors.parameters / matrix.numel(), parameter_ratio(factors, experts)
    return {
        "chain_of_matrix": chain,
        "shared_of_chains": shared,
        "shared_of_matrices": shared * chain,
        "error": ((rebuilt - matrix).norm() / matrix.norm()).item(),
    }


def conversion(model: Decoder, text: TextCorpus, plan: TrainingConfig) -> dict[str, Numbers]:
    """A model with other experts: their size and error, and the loss before and after tuning.

    All are tuned alike, the model with its own experts too. One expert that is the mean of all is
    what chains must be better than: they are fitted around it.
    """
    swaps: dict[str, Callable[[MoELayer], MoELayer]] = {PLAIN: lambda layer: layer}
    for bond in LM_BONDS:
        name = "chains" if bond is None else f"chains, bonds up to {bond}"
        swaps[name] = partial(_in_chains, max_bond=bond)
    swaps[MEAN] = _mean
    return {name: _swapped(model, swap, text, plan) for name, swap in swaps.items()}


def upcycled(given: argparse.Namespace, text: TextCorpus) -> Decoder:
    """A dense model for half of the steps; for the others, every expert starts as its network."""
    half = replace(training(given), steps=max(1, given.steps // 2))
    torch.manual_seed(0)
    dense = Decoder(config_of(given, FeedForward(experts=DENSE, inner_dim=given.inner_dim)))
    train(dense, text, half)
    stage = Stage(ffn=feed_forward(given, "softmax", {"balance_coef": 0.01}))
    model, _ = start_stage(stage, dense.config, text, dense, seed=0)
    train(model, text, half, seed=1)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print two tables, write JSON."""
    parser = arguments("mpoe", __doc__)
    parser.add_argument("--tuning-steps", type=int, default=100)
    given = parser.parse_args(argv)
    t5 = {bond: decomposition(replace(T5, max_bond=bond), given.experts) for bond in T5_BONDS}
    text = corpus(given)
    models = {
        "from scratch": trained(given, "softmax", {"balance_coef": 0.01}, seed=0)[0],
        "upcycled": upcycled(given, text),
    }
    plan = replace(training(given), steps=given.tuning_steps, validate_every=given.tuning_steps)
    similarity = {name: _similarity(model) for name, model in models.items()}
    rows = {name: conversion(model, text, plan) for name, model in models.items()}
    given.text = given.text.name
    write(given, {"decomposition": t5, "similarity": similarity, "conversion": rows})
    _show(t5, similarity, rows)


def _swapped(
    model: Decoder, swap: Callable[[MoELayer], MoELayer], text: TextCorpus, plan: TrainingConfig
) -> Numbers:
    other = copy.deepcopy(model)
    for layer in other.layers:
        assert isinstance(layer.mlp, MoELayer)
        layer.mlp = swap(layer.mlp)
    pairs = list(zip(model.moe_layers(), other.moe_layers(), strict=True))
    wrong = sum((_weights(new) - _weights(old)).square().sum() for old, new in pairs)
    whole = sum(_weights(old).square().sum() for old, _ in pairs)
    return {
        "size": sum(_size(new) for _, new in pairs) / sum(_size(old) for old, _ in pairs),
        "error": float(wrong / whole) ** 0.5,
        "loss": validate(other, text, plan, 0).loss,
        "tuned_loss": train(other, text, plan, seed=2).validations[-1].loss,
    }


def _in_chains(layer: MoELayer, max_bond: int | None) -> MoELayer:
    assert isinstance(layer.experts, SwiGLUExperts)
    return MoELayer(layer.router, MPOExperts.from_swiglu(layer.experts, max_bond=max_bond))


@torch.no_grad()
def _mean(layer: MoELayer) -> MoELayer:
    experts = layer.experts
    assert isinstance(experts, SwiGLUExperts)
    only = SwiGLUExperts(experts.dim, experts.inner_dim, 1)
    only.gate_up_proj.copy_(experts.gate_up_proj.mean(0, keepdim=True))
    only.down_proj.copy_(experts.down_proj.mean(0, keepdim=True))
    return MoELayer(SoftmaxTopK(experts.dim, 1, 1), only)


@torch.no_grad()
def _weights(layer: MoELayer) -> Tensor:
    """All weights of every expert, (experts, numbers); MPO's as the plain ones they stand for."""
    experts = layer.experts.to_swiglu() if isinstance(layer.experts, MPOExperts) else layer.experts
    assert isinstance(experts, SwiGLUExperts)
    return torch.cat([experts.gate_up_proj.flatten(1), experts.down_proj.flatten(1)], dim=1)


def _size(layer: MoELayer) -> int:
    return sum(parameter.numel() for parameter in layer.experts.parameters())


def _similarity(model: Decoder) -> float:
    """Mean cosine of two experts of a layer, over all pairs and layers."""
    means = [mean_similarity(expert_similarity(layer.experts)) for layer in model.moe_layers()]
    return torch.cat(means).mean().item()


def _show(
    t5: dict[int | None, Numbers],
    similarity: dict[str, float],
    conversions: dict[str, dict[str, Numbers]],
) -> None:
    print("bonds up to  a chain of a matrix  shared of chains  of matrices  error")
    for bond, row in t5.items():
        print(
            f"{bond or 'any':>11}{row['chain_of_matrix']:>21.4f}{row['shared_of_chains']:>18.4f}"
            f"{row['shared_of_matrices']:>13.4f}{row['error']:>7.1g}"
        )
    for name, rows in conversions.items():
        print(f"\n{name}, similarity of experts {similarity[name]:.3f}")
        print("                            size   error    loss   tuned")
        for experts, row in rows.items():
            print(
                f"{experts:<25}{row['size']:>7.3f}{row['error']:>8.3f}"
                f"{row['loss']:>8.4f}{row['tuned_loss']:>8.4f}"
            )


if __name__ == "__main__":
    run(main)
