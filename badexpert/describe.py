"""What a report says about the suspect, the clean set and the software."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from time import perf_counter

from badexpert.findings import Clock, Json
from badexpert.models.vision import VisionSuspect
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples
from badexpert.version import VERSION

COMPUTING = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


def describe_suspect(suspect: Suspect) -> dict[str, Json]:
    """Where the model came from and how it was understood."""
    origin = suspect.origin
    return {
        "path": origin.source,
        "sha256": origin.sha256,
        "format": origin.format,
        "architecture": origin.architecture,
        "arch_args": dict(origin.arch_args),
        "parameters": origin.parameters,
        "stored_dtype": origin.stored_dtype,
        "weights_at": origin.weights_at,
        "other_weights": list(origin.other_weights),
        "classes": suspect.num_classes,
        "outputs": suspect.outputs if isinstance(suspect, VisionSuspect) else "logits",
        "preprocessing": asdict(suspect.preprocessing),
        "preprocessing_source": origin.preprocessing_source,
        "assumed": list(origin.assumed),
    }


def describe_clean_set(clean: CleanSamples) -> dict[str, Json]:
    """What the clean set is; ``unreadable`` holds what reading has met so far."""
    return {
        "source": clean.source.name,
        "samples": len(clean),
        "classes": len(clean.labels.unique()),
        "sha256_of_choice": clean.digest(),
        "notes": [*clean.notes, *clean.gaps],
        "unreadable": [f"{item.id}: {item.reason}" for item in clean.unreadable],
    }


def versions() -> Mapping[str, str]:
    """The tool, Python, and the libraries that compute."""
    libraries = {name: version(name) for name in COMPUTING}
    return {"badexpert": VERSION, "python": platform.python_version(), **libraries}


class Stopwatch:
    """Times the parts of a run."""

    def __init__(self) -> None:
        self._created = datetime.now(UTC)
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        start = perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + perf_counter() - start

    def read(self) -> Clock:
        """When the watch was made, and the times so far."""
        seconds = {part: round(time, 3) for part, time in self._seconds.items()}
        return Clock(self._created.isoformat(timespec="seconds"), seconds)
