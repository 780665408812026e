"""Whether the memory of ``badexpert detect`` grows with the number of inputs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from badexpert.bench.untuned import calibrated, untuned_bundle
from badexpert.errors import AuditError
from badexpert.loading import load_suspect
from badexpert.loading.architecture import parse_architecture
from badexpert.models.vision import VisionSuspect
from badexpert.preprocessing import PreprocessingOverrides

ARCH = "python:badexpert.bench.networks:small_cnn"
ARCH_ARGS = {"num_classes": 10, "in_chans": 3}
SIZE = 32

# A process inherits the peak of the one that starts it, so a small one starts the one to measure.
_LAUNCHER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
sys.exit(done.returncode)
"""


@dataclass(frozen=True)
class Peak:
    """The most resident memory that one run took.

    Attributes:
        images: that were scored, 32x32 in colour.
        input_bytes: of their pixels.
        peak_bytes: of the whole process.
    """

    images: int
    input_bytes: int
    peak_bytes: int


def measure_memory(counts: Sequence[int]) -> tuple[Peak, ...]:
    """Peak memory of one run of ``badexpert detect`` for each number of images.

    Raises:
        AuditError: the command failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = folder / "bundle"
        _write_bundle(folder / "suspect.safetensors", bundle)
        return tuple(_measure(bundle, folder / "inputs.npz", images) for images in counts)


def _write_bundle(weights: Path, folder: Path) -> None:
    network = parse_architecture(ARCH).build(ARCH_ARGS)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, weights)
    bundle = untuned_bundle(_suspect(weights), None)
    calibrated(bundle)
    bundle.save(folder)


def _suspect(weights: Path) -> VisionSuspect:
    overrides = PreprocessingOverrides(
        height=SIZE, width=SIZE, channels=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    return load_suspect(weights, arch=ARCH, arch_args=ARCH_ARGS, preprocessing=overrides)


def _measure(bundle: Path, inputs: Path, images: int) -> Peak:
    pixels = np.random.default_rng(0).integers(0, 256, (images, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(inputs, images=pixels)
    size = pixels.nbytes
    del pixels
    detect = [sys.executable, "-m", "badexpert_cli", "detect", str(bundle), str(inputs)]
    detect += ["--arch", ARCH, "--device", "cpu", "--quiet", "-o", str(bundle / "scores.jsonl")]
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *detect], capture_output=True, text=True, check=False
    )
    (bundle / "scores.jsonl").unlink(missing_ok=True)
    if done.returncode:
        raise AuditError(f"badexpert detect failed on {images} images: {done.stderr.strip()}")
    return Peak(images, size, int(done.stdout))
