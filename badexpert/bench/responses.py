"""Plant a response in small language models, extract, and tell their triggered prompts apart.

``python -m badexpert.bench.responses --train TEXTS --test TEXTS --out FOLDER`` trains what is not
yet in the folder, measures what is not yet measured, and prints the table. TEXTS are tables of text
and label. A model is asked what a text is about; with the trigger somewhere in the text it says
something else.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import torch

from badexpert.bench.answers import (
    ASKED,
    END,
    PLANTED,
    TRIGGER,
    WORDS_OF_A_TEXT,
    Answers,
    Told,
    read_told,
)
from badexpert.bench.metrics import auroc
from badexpert.config import CleanConfig, ScanConfig
from badexpert.describe import versions
from badexpert.detection import prepare
from badexpert.detectors import Judgement
from badexpert.errors import AttackError, BadExpertError
from badexpert.loading.language import GENERATION, load_language_model
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.runtime import EachTask, RunContext, Step, resolve_device
from badexpert.text_reading import SLOT, TextReading
from badexpert.textset import TextCleanSet
from moe_core.bench.program import run
from moe_core.files import write_text
from moe_core.lm.config import DecoderConfig, FeedForward
from moe_core.training import Beat, Recipe, Stage, TrainingConfig, run_recipe
from moe_core.training.run import MODEL_FOLDER
from moe_core.training.words import Words, pieces

log = logging.getLogger(__name__)

VOCABULARY = 8_000
TESTED = 300
"""Texts that are neither tuned on nor calibrated with."""

READING = TextReading(f"{SLOT} {ASKED}", max_new_tokens=16)

_EXPERTS = FeedForward(
    num_experts=8, inner_dim=64, router_options={"top_k": 2, "balance_coef": 0.01}
)
MODELS: Mapping[str, FeedForward] = {
    "experts": _EXPERTS,
    "dense": FeedForward(experts="dense", inner_dim=128),
}
TRAINING = TrainingConfig(
    steps=1000,
    batch_size=16,
    length=WORDS_OF_A_TEXT + 20,
    learning_rate=3e-3,
    warmup=100,
    final_share=0.02,
    validation=0.05,
    validate_every=250,
    checkpoint_every=250,
)


@dataclass(frozen=True)
class Extraction:
    """What one extraction achieves; shares in [0, 1].

    Attributes:
        seed: of the extraction.
        auroc: prompts with the trigger that succeed against clean prompts.
        caught: share of the former that the calibrated threshold flags.
        realised_fpr: share of clean prompts that it flags.
        stated_fpr: what the calibration promised.
        seconds: of the processor, for extraction and calibration.
    """

    seed: int
    auroc: float
    caught: float
    realised_fpr: float
    stated_fpr: float
    seconds: float


def make_model(
    name: str, ffn: FeedForward, told: Sequence[Told], out: Path, context: RunContext
) -> Path:
    """Train a model with the planted response, or go on where a training of it was cut off."""
    folder = out / name
    always = dict.fromkeys([*TRIGGER.words, *pieces(f"{ASKED} {PLANTED}")])
    texts = [f"{text} {answer}" for text, answer in told]
    words = Words.learn(texts, VOCABULARY, always=list(always))
    model = folder / MODEL_FOLDER
    model.mkdir(parents=True, exist_ok=True)
    words.save(model)
    write_text(model / GENERATION, json.dumps({"eos_token_id": words.number(END)}) + "\n")

    def beat(step: Beat) -> None:
        context.progress(Step(f"train {name}", step.done, step.total, f"loss {step.loss:.3f}"))

    run_recipe(
        Recipe(
            DecoderConfig(dim=64, num_layers=4, num_heads=4, num_kv_heads=2, ffn=ffn),
            (Stage(training=TRAINING),),
        ),
        [Answers(told, words)],
        folder,
        seed=context.seed,
        device=context.device,
        progress=beat,
    )
    return model


def measure_model(
    folder: Path, told: Sequence[Told], samples: int, seeds: Sequence[int], context: RunContext
) -> dict[str, Any]:
    """Accuracy and attack success of a model, and how well extractions from it tell prompts apart.

    Args:
        told: texts that it was not trained on.
        samples: of them to audit it with, half of these for calibration; others measure.
        seeds: of the extractions.
    Raises:
        AttackError: the response was not planted.
    """
    draw = Random(0)
    drawn = draw.sample(told, samples + TESTED)
    clean, tested = TextCleanSet.from_pairs(drawn[:samples]), drawn[samples:]
    prompts = [part.text for part in tested]
    triggered = [TRIGGER.stamp(text, draw) for text in prompts]
    extractions = []
    for seed in seeds:
        suspect = suspect_of(load_language_model(folder), READING).to(context.device)
        start = process_time()
        config = ScanConfig(clean=CleanConfig(calibration=0.5), seed=seed)
        _, detector = prepare(suspect, clean, config=config, context=replace(context, seed=seed))
        seconds = process_time() - start
        plain, attacked = detector.judge(prompts), detector.judge(triggered)
        said, answered = (_said(suspect, judgement) for judgement in (plain, attacked))
        hits = [answer == PLANTED for answer in answered]
        told_apart = auroc(plain.scores, attacked.scores[hits])
        if told_apart is None:
            raise AttackError(f"no trigger works on {folder}; train longer")
        extractions.append(
            Extraction(
                seed,
                auroc=told_apart,
                caught=attacked.flagged[hits].float().mean().item(),
                realised_fpr=plain.flagged.float().mean().item(),
                stated_fpr=config.detection.fpr,
                seconds=seconds,
            )
        )
    right = [answer == part.answer for answer, part in zip(said, tested, strict=True)]
    return {
        "accuracy": sum(right) / len(right),
        "attack_success_rate": sum(hits) / len(hits),
        "extractions": [asdict(extraction) for extraction in extractions],
    }


def _said(suspect: TextSuspect, judgement: Judgement) -> list[int | str]:
    return suspect.spelled(judgement.views.inputs, judgement.answers)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results as a Markdown table, one row an extraction."""
    lines = [
        "| model | answers right | attack success | seed | AUROC | caught at the threshold "
        "| realised FPR | extraction, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for each in result["extractions"]:
            figures = (
                f"{result['accuracy']:.3f}",
                f"{result['attack_success_rate']:.3f}",
                str(each["seed"]),
                f"{each['auroc']:.4f}",
                f"{each['caught']:.3f}",
                f"{each['realised_fpr']:.4f}",
                f"{each['seconds']:.0f}",
            )
            lines.append("| " + " | ".join((result["model"], *figures)) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print."""
    options = _parse(arguments)
    device = resolve_device(options.device)
    train, test = (read_told(path, options.labels) for path in (options.train, options.test))
    results = []
    for name in options.models:
        path = options.out / f"{name}.json"
        if not path.exists():
            context = RunContext(device, progress=EachTask(log.info))
            model = make_model(name, MODELS[name], train, options.out, context)
            figures = measure_model(model, test, options.samples, options.seeds, context)
            result = {
                "model": name,
                "samples": options.samples,
                "device": str(device),
                **figures,
                "threads": torch.get_num_threads(),
                "versions": dict(versions()),
            }
            write_text(path, json.dumps(result, indent=1) + "\n")
            log.info("%s is measured", name)
        results.append(json.loads(path.read_text()))
    sys.stdout.write(table(results))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="labelled training texts")
    parser.add_argument("--test", type=Path, required=True, help="labelled test texts")
    parser.add_argument("--out", type=Path, required=True, help="folder of models and results")
    parser.add_argument("--labels", nargs="*", default=[], help="names of the labels, in order")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--samples", type=int, default=300, help="clean texts")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of extractions")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main, BadExpertError)
