"""Duo-LLM's oracle on a trained model, beside what choosing the least of many losses alone gives.

``python -m moe_core.bench.oracle --text FILE --out FILE``
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from moe_core.bench.program import run
from moe_core.bench.small_lm import corpus, training
from moe_core.bench.timing import new_parser, write
from moe_core.experts.duo import BIG
from moe_core.lm.config import DecoderConfig, FeedForward
from moe_core.lm.decoder import Decoder
from moe_core.oracle import Oracle, gain_over_null, pattern_losses, patterns
from moe_core.training.config import Budget, Stage
from moe_core.training.corpus import Batch, TextCorpus
from moe_core.training.run import start_stage
from moe_core.training.trainer import train, validate

LABELS = REAL, SHUFFLED, DRAWN = "real", "shuffled", "drawn"
"""The next tokens; the same in another order; others, drawn from what the model itself predicts
with big modules only, so that no other route can know more about them."""

Numbers = dict[str, float]

log = logging.getLogger(__name__)


def trained(given: argparse.Namespace, text: TextCorpus, seed: int) -> Decoder:
    """Big and small modules in every layer, trained on random routes."""
    ffn = FeedForward("random", "duo", num_experts=2, inner_dim=given.inner_dim)
    config = DecoderConfig(dim=given.dim, num_layers=given.layers, ffn=ffn)
    plan = training(given)
    model, history = start_stage(Stage(training=plan), config, text, None, seed=seed)
    log.info("training %d parameters on random routes, seed %d", history.parameters, seed)
    train(model, text, plan, seed=seed)
    return model


def routed(given: argparse.Namespace, text: TextCorpus, model: Decoder, seed: int) -> Numbers:
    """Loss of routers that learn to keep to the budget, and how many big modules a token meets."""
    plan = replace(
        training(given), steps=given.router_steps, budget=Budget(given.big / given.layers)
    )
    ffn = replace(model.config.ffn, router="budget")
    stage = Stage(ffn=ffn, train="new", training=plan)
    learned, _ = start_stage(stage, model.config, text, model, seed=seed)
    log.info("training the routers")
    train(learned, text, plan, seed=seed)
    taken = [_big_share(learned, batch) for batch in text.validation(plan)]
    return {
        "loss": validate(learned, text, plan, 0).loss,
        "big per token": given.layers * statistics.mean(taken),
    }


def oracles(model: Decoder, batches: Sequence[Batch], seed: int) -> dict[str, Oracle]:
    """All routes on the same text, by kind of label."""
    labels_NT = _labels(model, batches, torch.Generator().manual_seed(seed))
    routes_PL = patterns(model.config.num_layers)
    log.info("trying %d routes on %d tokens", len(routes_PL), labels_NT.shape[1])
    losses_PM = pattern_losses(
        list(model.moe_layers()), lambda: _losses(model, batches, labels_NT).flatten(), routes_PL
    )
    kinds = losses_PM.chunk(len(labels_NT), dim=1)
    return {
        name: Oracle(routes_PL, losses_PT)
        for name, losses_PT in zip((REAL, SHUFFLED, DRAWN), kinds, strict=True)
    }


def summary(oracle: Oracle, big: int) -> Numbers:
    """Losses under routes that all tokens share, and under each token's own best one.

    Args:
        big: number of big modules, but where a name says otherwise.
    """
    some = oracle.with_big(big)
    return {
        "all big": oracle.with_big(oracle.routes_PL.shape[1]).loss,
        "all small": oracle.with_big(0).loss,
        "mean route": some.losses_PT.mean().item(),
        "best route": some.best_fixed,
        "oracle": some.loss,
        "oracle of all routes": oracle.loss,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    given = _arguments(argv)
    text = corpus(given)
    runs = [_measured(given, text, seed) for seed in range(given.seeds)]
    given.text = given.text.name
    write(given, {"runs": runs})
    _show(given, runs)


def _measured(given: argparse.Namespace, text: TextCorpus, seed: int) -> dict[str, Numbers]:
    model = trained(given, text, seed)
    by_label = oracles(model, list(text.validation(training(given))), seed)
    some = {name: oracle.with_big(given.big) for name, oracle in by_label.items()}
    return {
        **{name: summary(oracle, given.big) for name, oracle in by_label.items()},
        "gain over null": {n: gain_over_null(some[REAL], some[n]) for n in (SHUFFLED, DRAWN)},
        "router": routed(given, text, model, seed),
    }


@torch.no_grad()
def _labels(model: Decoder, batches: Sequence[Batch], generator: torch.Generator) -> Tensor:
    """The three kinds of labels, (3, tokens)."""
    real_T = torch.cat([batch.targets.flatten() for batch in batches])
    shuffled_T = real_T[torch.randperm(len(real_T), generator=generator)]
    drawn = [
        # In evaluation, tokens that are not forced take the big modules.
        model(batch.ids_BT).logits.flatten(0, 1).softmax(-1).multinomial(1, generator=generator)
        for batch in batches
    ]
    return torch.stack([real_T, shuffled_T, torch.cat(drawn).squeeze(1)])


def _losses(model: Decoder, batches: Sequence[Batch], labels_NT: Tensor) -> Tensor:
    """Of each kind of label, (3, tokens)."""
    widths = [batch.targets.numel() for batch in batches]
    losses = []
    for batch, labels_NW in zip(batches, labels_NT.split(widths, dim=1), strict=True):
        log_probs_WV = model(batch.ids_BT).logits.flatten(0, 1).log_softmax(-1)
        losses.append(-log_probs_WV.gather(1, labels_NW.T).T)
    return torch.cat(losses, dim=1)


@torch.no_grad()
def _big_share(model: Decoder, batch: Batch) -> float:
    load_E = torch.stack([routing.load_E for routing in model(batch.ids_BT).routings]).sum(0)
    return (load_E[BIG] / load_E.sum()).item()


def _show(given: argparse.Namespace, runs: Sequence[dict[str, Numbers]]) -> None:
    """Means over the runs."""

    def mean(group: str, name: str) -> float:
        return statistics.mean(run[group][name] for run in runs)

    print(f"labels{'':<16}" + "".join(f"{kind:>10}" for kind in LABELS))
    for name in runs[0][REAL]:
        print(f"{name:<22}" + "".join(f"{mean(kind, name):>10.4f}" for kind in LABELS))
    gains = [mean(kind, "best route") - mean(kind, "oracle") for kind in LABELS]
    print(f"{'gain of the oracle':<22}" + "".join(f"{gain:>10.4f}" for gain in gains))
    loss, big = (mean("router", name) for name in ("loss", "big per token"))
    print(f"{'learned router':<22}{loss:>10.4f} with {big:.2f} big modules per token")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser("oracle", __doc__)
    parser.add_argument("--text", type=Path, required=True, help="text to learn")
    parser.add_argument("--big", type=int, default=1, help="big modules of a route")
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--inner-dim", type=int, default=256, help="of the big modules")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--router-steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args(argv)
    if not 0 < given.big < given.layers:
        parser.error(f"--big {given.big} of --layers {given.layers}; a route has some of each kind")
    return given


if __name__ == "__main__":
    run(main)
