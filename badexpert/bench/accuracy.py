"""Plant backdoors in CIFAR-10 networks, extract, detect, and write one JSON file a cell.

``python -m badexpert.bench.accuracy --train TRAIN --test TEST --out FOLDER`` trains what is not yet
in the folder, measures what is not yet measured, and prints the table. TRAIN and TEST are labelled
32x32 images in any form that the toolkit reads.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from badexpert.attacks import SIG, Attack, BadNet, Blend, Images, Training, plant
from badexpert.bench.metrics import look_at, measure
from badexpert.bench.networks import resnet20
from badexpert.cleanset import CleanSet
from badexpert.config import CleanConfig, DetectionConfig, ExtractionConfig, ScanConfig
from badexpert.describe import versions
from badexpert.detection import prepare
from badexpert.errors import BadExpertError
from badexpert.models.vision import VisionSuspect
from badexpert.preprocessing import Preprocessing
from badexpert.runtime import EachTask, RunContext, resolve_device
from moe_core.bench.program import run

log = logging.getLogger(__name__)

PREPROCESSING = Preprocessing(32, 32, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
TESTED = 3000
"""Test images that are neither tuned on nor calibrated with."""


@dataclass(frozen=True)
class Victim:
    """A model to be backdoored.

    Attributes:
        samples: training images, taken from the front; None takes all.
    """

    name: str
    network: Callable[[], nn.Module]
    attack: Attack
    rate: float
    training: Training
    samples: int | None = None


def _timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network: nn.Module = timm.create_model(name, num_classes=10, **arguments)
        return network

    return build


def _mobilenet_for_small_images() -> nn.Module:
    """MobileNetV2 that keeps the size in its first layer: at stride 32 nothing is left of 32x32."""
    network: nn.Module = timm.create_model("mobilenetv2_050", num_classes=10)
    stem = network.get_submodule("conv_stem")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    return network


_RESNET20 = Training(epochs=10, lr=0.2, mixed_precision=True, crop=4, flip=True)
_PATCH = BadNet(size=6)
_COARSE_PATCH = BadNet(size=6, cell=2)

VICTIMS = (
    Victim("resnet20-badnet", resnet20, BadNet(), 0.01, _RESNET20),
    Victim("resnet20-blend", resnet20, Blend(), 0.01, _RESNET20),
    Victim("resnet20-sig", resnet20, SIG(), 0.02, _RESNET20),
    Victim(
        "resnet10t-badnet",
        _timm("resnet10t"),
        _PATCH,
        0.02,
        Training(epochs=6, lr=0.1, mixed_precision=True, crop=4, flip=True),
        25_000,
    ),
    Victim(
        "vgg11_bn-badnet",
        _timm("vgg11_bn", mlp_ratio=0.0625),
        _PATCH,
        0.02,
        Training(epochs=5, lr=0.05, mixed_precision=True, crop=4, flip=True),
        25_000,
    ),
    Victim(
        "mobilenetv2_050-badnet",
        _mobilenet_for_small_images,
        _COARSE_PATCH,
        0.1,
        Training(epochs=6, lr=0.1),
        12_000,
    ),
    Victim(
        "vit-badnet",
        _timm(
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=4,
            embed_dim=96,
            depth=4,
            num_heads=3,
        ),
        _COARSE_PATCH,
        0.1,
        Training(epochs=6, lr=0.001, weight_decay=0.05, optimizer="adamw", mixed_precision=True),
        12_000,
    ),
)


@dataclass(frozen=True)
class Method:
    """A way to extract and to compare."""

    detector: str
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)


METHODS: Mapping[str, Method] = {
    "ours": Method("badexpert"),
    "ours, tail 0.15": Method("badexpert", ExtractionConfig(tail_share=0.15)),
    "ours, full copies": Method("badexpert", ExtractionConfig(tail_share=1.0)),
    "authors' settings": Method("badexpert-paper", ExtractionConfig(method="paper")),
}


def read_images(spec: str) -> Images:
    """Read a labelled source whole."""
    return Images(*CleanSet.open(spec, PREPROCESSING, num_classes=10).tensors(), num_classes=10)


def train_or_load(
    victim: Victim, train: Images, folder: Path, context: RunContext
) -> VisionSuspect:
    """The victim from its file, or trained and written there."""
    path = folder / "models" / f"{victim.name}.safetensors"
    with context.seeded("initial weights"):
        suspect = VisionSuspect(victim.network(), PREPROCESSING, num_classes=10)
    if path.exists():
        suspect.module.load_state_dict(load_file(path))
        return VisionSuspect(suspect.module, PREPROCESSING, num_classes=10)
    count = victim.samples if victim.samples is not None else len(train.labels)
    plant(
        suspect.network,
        train.part(slice(count)),
        victim.attack,
        rate=victim.rate,
        training=victim.training,
        context=context,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    state = suspect.module.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return VisionSuspect(suspect.module, PREPROCESSING, num_classes=10)


def measure_cell(
    victim: Victim,
    suspect: VisionSuspect,
    method: Method,
    test: Images,
    samples: int,
    context: RunContext,
) -> dict[str, Any]:
    """Extract with ``samples`` clean images, half of them for calibration, and measure."""
    order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(context.seed))
    mine, traffic = order[:samples], order[-TESTED:]
    clean = CleanSet.from_tensors(test.pixels[mine], test.labels[mine], num_classes=10)
    config = ScanConfig(
        clean=CleanConfig(calibration=0.5),
        detection=DetectionConfig(detector=method.detector),
        extraction=method.extraction,
        seed=context.seed,
    )
    start = perf_counter()
    bundle, detector = prepare(suspect, clean, config=config, context=context)
    seconds = perf_counter() - start
    trial = look_at(bundle, victim.attack, test.pixels[traffic], test.labels[traffic])
    return {
        "victim": victim.name,
        "samples": samples,
        "seed": context.seed,
        "device": str(context.device),
        **asdict(measure(detector, trial)),
        "tail_share": bundle.record.cut.tail_share,
        "accuracy_of_copies": bundle.record.clean_accuracy,
        "seconds_to_extract": seconds,
        "threads": torch.get_num_threads(),
        "versions": dict(versions()),
    }


def table(cells: list[dict[str, Any]]) -> str:
    """The cells as a Markdown table."""
    lines = [
        "| model | clean images | method | clean accuracy | attack success | after rejection "
        "| AUROC | TPR at 1 % FPR | caught at the threshold | realised FPR | extraction, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        figures = (
            f"{cell['clean_accuracy']:.3f}",
            f"{cell['attack_success_rate']:.3f}",
            f"{cell['attack_success_rate_after_rejection']:.3f}",
            f"{cell['auroc']:.4f}",
            f"{cell['tpr_at_1_fpr']:.3f}",
            f"{cell['detection_rate']:.3f}",
            f"{cell['realised_fpr']:.4f}",
            f"{cell['seconds_to_extract']:.0f}",
        )
        head = (cell["victim"], str(cell["samples"]), cell["method"])
        lines.append("| " + " | ".join((*head, *figures)) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print."""
    options = _parse(arguments)
    device = resolve_device(options.device)
    train, test = read_images(options.train), read_images(options.test)
    cells = []
    for victim in VICTIMS:
        if options.only and victim.name not in options.only:
            continue
        log.info("%s", victim.name)
        context = RunContext(device, options.seed, EachTask(log.info))
        suspect = train_or_load(victim, train, options.out, context)
        for samples in options.samples:
            for name in options.methods:
                path = options.out / "cells" / f"{victim.name}-{samples}-{_slug(name)}.json"
                if not path.exists():
                    cell = measure_cell(victim, suspect, METHODS[name], test, samples, context)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps({"method": name, **cell}, indent=1) + "\n")
                    log.info("%s, %d samples, %s: measured", victim.name, samples, name)
                cells.append(json.loads(path.read_text()))
    sys.stdout.write(table(cells))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True, help="labelled training images")
    parser.add_argument("--test", required=True, help="labelled test images")
    parser.add_argument("--out", type=Path, required=True, help="folder of models and results")
    parser.add_argument("--only", nargs="*", help="names of victims; all without it")
    parser.add_argument("--samples", nargs="*", type=int, default=[2000], help="clean images")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=["ours"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(arguments)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


if __name__ == "__main__":
    run(main, BadExpertError)
