"""Whether a device says what the CPU says: ``python -m badexpert.bench.parity``."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from badexpert.attacks import BadNet, Images, Training, plant
from badexpert.bench.metrics import look_at, measure
from badexpert.bench.networks import small_cnn
from badexpert.cleanset import CleanSet
from badexpert.config import ScanConfig
from badexpert.describe import versions
from badexpert.detection import prepare, stored_detector
from badexpert.detectors import Detector
from badexpert.errors import BadExpertError
from badexpert.extraction import Bundle
from badexpert.models.vision import VisionSuspect
from badexpert.preprocessing import Preprocessing
from badexpert.runtime import EachTask, RunContext, resolve_device
from moe_core.bench.program import run

log = logging.getLogger(__name__)

PREPROCESSING = Preprocessing(8, 8, channels=1, mean=(0.5,), std=(0.25,))
ATTACK = BadNet(size=3)
TRAINED, CLEAN = 797, 500
CPU = torch.device("cpu")

SCORE_TOLERANCE = 0.05
"""In units of the spread of clean scores; convolutions in TF32 keep ten bits."""

FLAG_TOLERANCE = 0.005
"""Share of inputs that may be flagged on one side only."""

AUROC_TOLERANCE = 0.02
"""Two extractions differ in every step, so their experts do."""


@dataclass(frozen=True)
class Detection:
    """One bundle on the CPU and on a device, on the same inputs.

    Attributes:
        score_difference: largest absolute one, in units of the spread of clean scores.
        answers_differ: share of inputs, in [0, 1].
        flags_differ: share of inputs, in [0, 1].
    """

    score_difference: float
    answers_differ: float
    flags_differ: float

    @property
    def equal(self) -> bool:
        """Within tolerance."""
        differ = max(self.answers_differ, self.flags_differ)
        return self.score_difference <= SCORE_TOLERANCE and differ <= FLAG_TOLERANCE


@dataclass(frozen=True)
class Extraction:
    """What one extraction came to.

    Attributes:
        clean_accuracy: of suspect and tuned copies, on watched samples.
    """

    auroc: float | None
    clean_accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Parity:
    """A device against the CPU."""

    detection: Detection
    on_cpu: Extraction
    on_device: Extraction

    @property
    def equal(self) -> bool:
        """Detection agrees, and extraction is as good."""
        there, here = self.on_device.auroc, self.on_cpu.auroc
        if there is None or here is None:
            return False
        return self.detection.equal and there >= here - AUROC_TOLERANCE


@dataclass(frozen=True)
class _Digits:
    pixels: Tensor
    labels: Tensor

    @classmethod
    def load(cls) -> _Digits:
        pixels, labels = CleanSet.open("sklearn:digits", PREPROCESSING, num_classes=10).tensors()
        order = torch.randperm(len(labels), generator=RunContext().generator("digits"))
        return cls(pixels[order], labels[order])

    def part(self, start: int, stop: int | None) -> _Digits:
        return _Digits(self.pixels[start:stop], self.labels[start:stop])


def compare_devices(device: torch.device) -> Parity:
    """Extract from a small backdoored classifier of digits on both, and detect on both."""
    digits = _Digits.load()
    suspect = _backdoored(digits.part(0, TRAINED))
    clean = digits.part(TRAINED, TRAINED + CLEAN)
    traffic = digits.part(TRAINED + CLEAN, None)
    detectors = [_prepare(suspect.copy(), clean, place) for place in (CPU, device)]
    here, there = (_extraction(detector, traffic) for detector in detectors)
    return Parity(_detection(detectors[0], device, traffic), here, there)


def _backdoored(data: _Digits) -> VisionSuspect:
    torch.manual_seed(0)
    suspect = VisionSuspect(small_cnn(), PREPROCESSING, num_classes=10)
    training = Training(epochs=25, lr=0.1, batch_size=64)
    plant(
        suspect.network,
        Images(data.pixels, data.labels, num_classes=10),
        ATTACK,
        rate=0.1,
        training=training,
        context=RunContext(),
    )
    return VisionSuspect(suspect.module, PREPROCESSING, num_classes=10)


def _prepare(suspect: VisionSuspect, clean: _Digits, device: torch.device) -> Detector:
    samples = CleanSet.from_tensors(clean.pixels, clean.labels, num_classes=10)
    context = RunContext(device, progress=EachTask(log.info))
    return prepare(suspect, samples, config=ScanConfig(), context=context)[1]


def _extraction(detector: Detector, traffic: _Digits) -> Extraction:
    trial = look_at(detector.bundle, ATTACK, traffic.pixels, traffic.labels)
    return Extraction(measure(detector, trial).auroc, detector.bundle.record.clean_accuracy)


def _detection(detector: Detector, device: torch.device, traffic: _Digits) -> Detection:
    """The same bundle again, through its file, on the device."""
    with tempfile.TemporaryDirectory() as folder:
        detector.bundle.save(Path(folder))
        moved = Bundle.load(Path(folder), detector.bundle.suspect.copy().to(device))
    clean = traffic.pixels.float() / 255
    inputs = torch.cat([clean, ATTACK.stamp(clean)])
    here = detector.judge(inputs)
    there = stored_detector(moved, ScanConfig().detection).judge(inputs)
    return Detection(
        score_difference=(here.scores - there.scores).abs().max().item(),
        answers_differ=(here.answers != there.answers).double().mean().item(),
        flags_differ=(here.flagged != there.flagged).double().mean().item(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write JSON, return 1 when the device differs."""
    parser = argparse.ArgumentParser(prog="python -m badexpert.bench.parity", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    parity = compare_devices(device)
    document = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "versions": dict(versions()),
        "equal": parity.equal,
        **asdict(parity),
    }
    text = json.dumps(document, indent=1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if parity.equal else 1


if __name__ == "__main__":
    run(main, BadExpertError)
