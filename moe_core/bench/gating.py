"""Skywork-MoE's router with and without normalised logits, on one language model.

``python -m moe_core.bench.gating --text FILE --out FILE``
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch

from moe_core.bench.program import run
from moe_core.bench.small_lm import arguments, corpus, trained, training
from moe_core.bench.timing import write
from moe_core.lm.config import Option
from moe_core.lm.decoder import Decoder
from moe_core.training.history import History

CAPACITY_FACTOR = 1.25
VARIANTS: dict[str, dict[str, Option]] = {
    "plain": {"normalise": False},
    "scale 0.5": {"scale": 0.5},
    "scale 1": {"scale": 1.0},
    "scale 2": {"scale": 2.0},
}


@torch.no_grad()
def gate_ratio(model: Decoder, given: argparse.Namespace) -> float:
    """Highest over second highest gate on the validation text: geometric mean over tokens."""
    logs = []
    for batch in corpus(given).validation(training(given)):
        for routing in model(batch.ids_BT).routings:
            first, second = routing.probs_TE.topk(2, dim=1).values.log().unbind(1)
            logs.append((first - second).mean())
    return torch.stack(logs).mean().exp().item()


def drop_rate(history: History) -> float:
    """Share of slots that met a full expert, over layers and the second half of the training."""
    late = history.records[len(history.records) // 2 :]
    return statistics.mean(rate for record in late for rate in record.drop_rate)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    given = arguments("gating", __doc__).parse_args(argv)
    rows = {}
    for name, options in VARIANTS.items():
        settings = {"capacity_factor": CAPACITY_FACTOR, **options}
        runs = [trained(given, "skywork", settings, seed=seed) for seed in range(given.seeds)]
        rows[name] = {
            "loss": statistics.mean(history.validations[-1].loss for _, history in runs),
            "gate_ratio": statistics.mean(gate_ratio(model, given) for model, _ in runs),
            "drop_rate": statistics.mean(drop_rate(history) for _, history in runs),
        }
    given.text = given.text.name
    write(given, {"capacity_factor": CAPACITY_FACTOR, "gating": rows})
    print("           validation loss  max-1 / max-2  dropped")
    for name, row in rows.items():
        print(
            f"{name:<11}{row['loss']:>15.4f}{row['gate_ratio']:>15.2f}"
            f"{100 * row['drop_rate']:>8.2f} %"
        )


if __name__ == "__main__":
    run(main)
