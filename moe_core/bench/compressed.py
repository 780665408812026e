"""What compressed experts recover of the experts that no longer run, on one language model.

``python -m moe_core.bench.compressed --text FILE --out FILE``
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moe_core.bench.program import run
from moe_core.bench.small_lm import arguments, corpus, trained, training
from moe_core.bench.timing import write
from moe_core.experts.compressed import CompressedExperts, train_stand_ins_only
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.lm.decoder import Decoder
from moe_core.routing import Routing
from moe_core.training.corpus import TextCorpus
from moe_core.training.trainer import train, validate

MAIN_SLOTS = 1
LEARNING_RATE = 1e-2
ALL, ALL_SCALED = "all experts", "all experts, scaled"
ALONE, SURE = "main expert alone", "main expert alone, gate 1"
ALONE_SCALED, STAND_INS = "main expert alone, scaled", "main expert and stand-ins"


class ScaledExperts(CompressedExperts):
    """The control: as many numbers in the same places, but of the experts that do run.

    What they gain could be gained without knowing which experts are missing.
    """

    def _auxiliary_shares(self, routing: Routing) -> Tensor:
        main_TK = routing.weights_TK.masked_fill(self._auxiliary(routing), 0)
        shares_TK = main_TK / main_TK.sum(1, keepdim=True)
        return torch.zeros_like(routing.probs_TE).scatter_add(1, routing.experts_TK, shares_TK)


def with_experts(model: Decoder, kind: type[CompressedExperts], main_slots: int | None) -> Decoder:
    """A copy with numbers of this kind, all ones, and nothing else to be trained."""
    other = copy.deepcopy(model)
    for layer in other.moe_layers():
        assert isinstance(layer.experts, SwiGLUExperts)
        layer.experts = kind.of(layer.experts, main_slots=main_slots)
    train_stand_ins_only(other)
    return other


def measure(given: argparse.Namespace, text: TextCorpus, seed: int) -> dict[str, float]:
    """Validation losses of one model, of what is left of it, and after tuning."""
    full, history = trained(given, "softmax", {"balance_coef": 0.01}, seed=seed)
    plan = replace(
        training(given),
        steps=given.tuning_steps,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        validate_every=given.tuning_steps,
    )

    def tuned(kind: type[CompressedExperts], main_slots: int | None) -> float:
        return (
            train(with_experts(full, kind, main_slots), text, plan, seed=seed).validations[-1].loss
        )

    sure = copy.deepcopy(full)
    for router in sure.routers():
        router.top_k = MAIN_SLOTS
    alone = with_experts(full, CompressedExperts, MAIN_SLOTS)
    return {
        ALL: history.validations[-1].loss,
        ALL_SCALED: tuned(ScaledExperts, None),
        ALONE: validate(alone, text, plan, 0).loss,
        SURE: validate(sure, text, plan, 0).loss,
        ALONE_SCALED: tuned(ScaledExperts, MAIN_SLOTS),
        STAND_INS: tuned(CompressedExperts, MAIN_SLOTS),
    }


def recovered(losses: dict[str, float], tuned: str) -> float:
    """Share of what the main expert alone lost."""
    return (losses[ALONE] - losses[tuned]) / (losses[ALONE] - losses[ALL])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = arguments("compressed", __doc__)
    parser.add_argument("--tuning-steps", type=int, default=100)
    given = parser.parse_args(argv)
    text = corpus(given)
    runs = [measure(given, text, seed) for seed in range(given.seeds)]
    means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    shares = {name: recovered(means, name) for name in (ALONE_SCALED, STAND_INS)}
    given.text = given.text.name
    write(given, {"losses": means, "recovered": shares, "runs": runs})
    print("                           validation loss")
    for name, loss in means.items():
        print(f"{name:<26}{loss:>16.4f}")
    for name, share in shares.items():
        print(f"recovered by {name:<28}{100 * share:>6.1f} %")


if __name__ == "__main__":
    run(main)
