"""Suspects and bundles to time: their weights are random, which changes no timing."""

from __future__ import annotations

import copy
from typing import Any

import torch

from badexpert.batchnorm import has_batch_norm
from badexpert.bench.networks import resnet20
from badexpert.cleanset import CleanSet
from badexpert.config import DetectionConfig, ExtractionConfig
from badexpert.detection import calibrate
from badexpert.detectors import Detector
from badexpert.extraction import Bundle
from badexpert.extraction.bundle import graph_of
from badexpert.extraction.comparison import AUXILIARIES, DISTANCE, EXPERTS, SHIFTED, SUSPECT
from badexpert.extraction.features import Features, compute_features
from badexpert.extraction.gaussian import find_gaussian
from badexpert.extraction.record import Record, Scale
from badexpert.extraction.watch import watch_over
from badexpert.loading.architecture import parse_architecture
from badexpert.models.vision import VisionSuspect
from badexpert.preprocessing import Preprocessing
from badexpert.runtime import RunContext

CLASSES = 10
_CALIBRATION = 128


def untrained_suspect(arch: str | None, size: int, device: torch.device) -> VisionSuspect:
    """A classifier of colour images with random weights.

    Args:
        arch: as in ``--arch``; None takes ResNet-20.
        size: side of its input, in pixels.
    Raises:
        ModelLoadError: the architecture is unknown, or takes no inputs of this size.
    """
    preprocessing = Preprocessing(size, size)
    arguments: dict[str, Any] = {"num_classes": CLASSES}
    module = resnet20(CLASSES) if arch is None else parse_architecture(arch).build(arguments)
    return VisionSuspect.from_module(module, preprocessing).to(device)


def untuned_bundle(suspect: VisionSuspect, tail_share: float | None) -> Bundle:
    """A bundle cut as an extraction would, whose tuned copies are plain copies.

    Args:
        tail_share: as in ``ExtractionConfig``.
    Raises:
        AuditError: the network cannot be cut.
    """
    settings = ExtractionConfig(tail_share=tail_share)
    graph = graph_of(suspect)
    cut = graph.default_cut() if tail_share is None else graph.at_share(tail_share)
    trunk, tail = graph.split(cut)
    experts = (SHIFTED,) if has_batch_norm(tail) else EXPERTS
    parts = (*experts, *AUXILIARIES)
    pixels = noise(_CALIBRATION, suspect)
    fit = compute_features(trunk, Features(pixels, suspect.predict(pixels).cpu()), suspect.device)
    watch = watch_over(tail, fit, CLASSES, suspect.device)
    gaussian, _ = find_gaussian(tail, cut.node, graph.last_places(cut), fit, watch)
    record = Record.of(
        suspect,
        cut=cut,
        settings=settings,
        seed=0,
        clean_digest="",
        samples={},
        clean_accuracy={},
        scales=dict.fromkeys((*parts, DISTANCE), Scale(0.0, 1.0, 1.0)),
        trajectories={},
        notes=("nothing was tuned: this bundle is only good for timing",),
    )
    tails = {SUSPECT: tail, **{part: copy.deepcopy(tail) for part in parts}}
    return Bundle(suspect, record, trunk, tails, gaussian=gaussian)


def noise(images: int, suspect: VisionSuspect) -> torch.Tensor:
    """Random pixels of the suspect's size, (images, channels, height, width) uint8."""
    plan = suspect.preprocessing
    shape = (images, plan.channels, plan.height, plan.width)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def calibrated(bundle: Bundle) -> Detector:
    """The default detector, calibrated on noise."""
    suspect = bundle.suspect
    assert isinstance(suspect, VisionSuspect), "made by untrained_suspect"
    labels = torch.arange(_CALIBRATION) % suspect.num_classes
    pixels = noise(_CALIBRATION, suspect)
    clean = CleanSet.from_tensors(pixels, labels, num_classes=suspect.num_classes)
    return calibrate(bundle, clean, config=DetectionConfig(), context=RunContext())
