"""LoRA, MixLoRA and DynMoLE with as many parameters each, on one frozen language model.

``python -m moe_core.bench.adapters --task NAME TRAIN TEST [--task ...] --out FILE``

A small dense model first learns the training texts of all tasks, without their labels. What it is
then adapted by is trained on each task with the same steps and batches. The learning rate is the
one of ``--rates`` with the lowest loss on held-out training texts, for the first seed; test texts
are only measured on. Every result is written as it comes, and a run that was cut off goes on; the
checkpoint of the dense model lies in a folder beside the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moe_core.bench.program import run
from moe_core.bench.texts import Words, corpus_of, read_labelled
from moe_core.bench.timing import new_parser, write
from moe_core.lm.config import DENSE, DecoderConfig, FeedForward, Option
from moe_core.lm.decoder import Decoder
from moe_core.lora import LoraSettings
from moe_core.training.config import Stage, TrainingConfig
from moe_core.training.corpus import LabelledCorpus, TextCorpus
from moe_core.training.run import start_stage
from moe_core.training.trainer import measure, train

HEAD, LORA = "head only", "LoRA"
TOLERANCE = 0.02
"""By how much numbers of parameters may differ, as a share."""

_SCALING = 2.0
"""Of all updates: alpha over rank, as MixLoRA and DynMoLE have it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates of each feed-forward part; those of the attention are the same for all."""

    router: str
    num_experts: int
    options: Mapping[str, Option] = field(default_factory=dict)


ADAPTERS = {
    # A choice of one: plain LoRA, without a router's parameters.
    LORA: Adapter("random", 1),
    "MixLoRA": Adapter("mixlora", 8, {"top_k": 2}),
    "DynMoLE": Adapter("dynmole", 6, {"top_k": 2}),
}
"""Numbers of experts are the published ones."""


@dataclass(frozen=True)
class Task:
    """Texts to learn to classify, and texts to be tested on."""

    name: str
    train: LabelledCorpus
    test: LabelledCorpus


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        parameters: trained.
        held_out_loss: on training texts that were not trained on.
        accuracy: on the test texts.
    """

    parameters: int
    held_out_loss: float
    accuracy: float


class Bench:
    """Trainings on one frozen model, each kept in the file as soon as it is done.

    Raises:
        ValueError: the file holds results of other settings or data.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.tasks, text = _read(given)
        parts = [text.digest(), *(part.digest() for t in self.tasks for part in (t.train, t.test))]
        settings = {name: value for name, value in vars(given).items() if name not in _FREE}
        self._origin = hashlib.sha256(f"{settings}/{parts}".encode()).hexdigest()
        self._cells = self._kept()
        self.base = self._base(text)
        self.ranks = _equal_ranks(self.base, self.tasks[0].train, given)

    def cell(self, task: Task, name: str, rate: float, seed: int) -> Cell:
        """Train one adapter on one task, or look up what it came to."""
        key = f"{task.name} / {name} / {rate:g} / {seed}"
        if key not in self._cells:
            self._cells[key] = self._trained(task, name, rate, seed)
            log.info("%s: %s", key, self._cells[key])
            self.write({})
        return self._cells[key]

    def write(self, results: Mapping[str, object]) -> None:
        """All cells, and what follows from them."""
        cells = {key: vars(cell) for key, cell in self._cells.items()}
        given = argparse.Namespace(**vars(self.given))
        given.task = [[name, *(Path(path).name for path in paths)] for name, *paths in given.task]
        write(given, {"origin": self._origin, "ranks": self.ranks, "cells": cells, **results})

    def _trained(self, task: Task, name: str, rate: float, seed: int) -> Cell:
        stage = _stage(self.given, name, self.ranks.get(name, 0), rate)
        model, history = start_stage(stage, self.base.config, task.train, self.base, seed=seed)
        held_out = train(model, task.train, stage.training, seed=seed).validations[-1]
        tested = measure(model, task.test.batches(stage.training), stage.training.steps)
        return Cell(history.parameters, held_out.loss, tested.accuracy)

    def _base(self, text: TextCorpus) -> Decoder:
        folder = self.given.out.parent / f"{self.given.out.stem}-base"
        folder.mkdir(parents=True, exist_ok=True)
        ffn = FeedForward(experts=DENSE, inner_dim=self.given.inner_dim)
        config = DecoderConfig(dim=self.given.dim, num_layers=self.given.layers, ffn=ffn)
        plan = replace(_plan(self.given, 3e-3), steps=self.given.base_steps, weight_decay=0.1)
        model, history = start_stage(Stage(training=plan), config, text, None, seed=0)
        log.info("%d parameters are frozen later", history.parameters)
        history = train(model, text, plan, folder=folder, origin=self._origin)
        log.info("their loss is %.4f", history.validations[-1].loss)
        return model

    def _kept(self) -> dict[str, Cell]:
        if not self.given.out.is_file():
            return {}
        document = json.loads(self.given.out.read_text(encoding="utf-8"))
        if document.get("origin") != self._origin:
            raise ValueError(f"{self.given.out} has results of other settings or data")
        return {key: Cell(**cell) for key, cell in document["cells"].items()}


def summary(bench: Bench, task: Task, name: str) -> dict[str, Any]:
    """All seeds of one adapter on one task, at the best learning rate."""
    given = bench.given
    tried = {rate: bench.cell(task, name, rate, 0).held_out_loss for rate in given.rates}
    rate = min(tried, key=lambda tried_rate: tried[tried_rate])
    cells = [bench.cell(task, name, rate, seed) for seed in range(given.seeds)]
    accuracies = [cell.accuracy for cell in cells]
    return {
        "parameters": cells[0].parameters,
        "rate": rate,
        "accuracies": accuracies,
        "mean": statistics.mean(accuracies),
        "deviation": statistics.stdev(accuracies) if len(cells) > 1 else None,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    bench = Bench(_arguments(argv))
    rows = {
        task.name: {name: summary(bench, task, name) for name in (HEAD, *ADAPTERS)}
        for task in bench.tasks
    }
    bench.write({"adapters": rows})
    print("                      parameters    rate  test accuracy")
    for task, by_name in rows.items():
        for name, row in by_name.items():
            deviation = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.2f}"
            print(
                f"{task:<12}{name:<10}{row['parameters']:>10}{row['rate']:>8g}"
                f"{100 * row['mean']:>9.2f}{deviation}"
            )


def _read(given: argparse.Namespace) -> tuple[list[Task], TextCorpus]:
    """The tasks, and the training texts of all of them as one."""
    files = [(name, *map(read_labelled, map(Path, paths))) for name, *paths in given.task]
    texts = [text for _, train, _ in files for text in train.texts]
    words = Words(texts, given.vocabulary)
    tasks = []
    for name, train_texts, test_texts in files:
        classes = tuple(sorted(set(train_texts.labels)))
        train_corpus, test_corpus = (
            corpus_of(part, classes, words) for part in (train_texts, test_texts)
        )
        tasks.append(Task(name, train_corpus, test_corpus))
    return tasks, TextCorpus(words.encode("\n".join(texts)), words.vocab_size)


def _stage(given: argparse.Namespace, name: str, rank: int, rate: float) -> Stage:
    plan = _plan(given, rate)
    if name == HEAD:
        return Stage(train="new", training=plan)
    adapter = ADAPTERS[name]
    ffn = FeedForward(
        adapter.router,
        "lora",
        adapter.num_experts,
        given.inner_dim,
        router_options=adapter.options,
        expert_options={"rank": rank, "alpha": _SCALING * rank},
    )
    attention = LoraSettings(rank=given.attention_rank, alpha=_SCALING * given.attention_rank)
    return Stage(ffn=ffn, attention_lora=attention, train="new", training=plan)


def _equal_ranks(
    base: Decoder, corpus: LabelledCorpus, given: argparse.Namespace
) -> dict[str, int]:
    """By adapter, the rank that makes it as large as LoRA.

    Raises:
        ValueError: no rank of one of them does, within the tolerance.
    """

    def size(name: str, rank: int) -> int:
        stage = _stage(given, name, rank, given.rates[0])
        return start_stage(stage, base.config, corpus, base, seed=0)[1].parameters

    wanted, ranks = size(LORA, given.rank), {}
    for name in ADAPTERS:
        sizes = {rank: size(name, rank) for rank in range(1, given.rank + 1)}
        ranks[name] = min(sizes, key=lambda rank: abs(sizes[rank] - wanted))
        if abs(sizes[ranks[name]] - wanted) > TOLERANCE * wanted:
            raise ValueError(
                f"{name} has {sizes[ranks[name]]} parameters at its nearest rank, LoRA has "
                f"{wanted} at rank {given.rank}; give another --rank"
            )
    return ranks


def _plan(given: argparse.Namespace, rate: float) -> TrainingConfig:
    """Validated once, at the end."""
    return TrainingConfig(
        steps=given.steps,
        batch_size=given.batch_size,
        length=given.length,
        learning_rate=rate,
        weight_decay=0.0,
        validation_batches=32,
        validate_every=given.steps,
    )


_FREE = {"task", "out", "rates", "seeds"}
"""What a run that goes on may be asked for anew."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser("adapters", __doc__)
    parser.add_argument(
        "--task",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "TRAIN", "TEST"),
        help="parquet files with columns text and label; several times",
    )
    parser.add_argument("--vocabulary", type=int, default=4096, help="most frequent words")
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--inner-dim", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--base-steps", type=int, default=1000)
    parser.add_argument("--rank", type=int, default=25, help="of LoRA's feed-forward updates")
    parser.add_argument("--attention-rank", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main, ValueError)
