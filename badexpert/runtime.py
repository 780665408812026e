"""Where and how a run takes place: device, seed, progress. One object, passed down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from badexpert.errors import ConfigError


class Step(NamedTuple):
    """One beat of a long task."""

    task: str
    done: int
    total: int | None
    note: str = ""


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """The default progress callback: says nothing."""


class EachTask:
    """A progress callback that names each task once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._named: set[str] = set()

    def __call__(self, step: Step) -> None:
        if step.task not in self._named:
            self._named.add(step.task)
            self._say(step.task)


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that exists here.

    Raises:
        ConfigError: the name is unknown, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not known; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu, or install a CUDA build of torch"
        )
    return device


@dataclass(frozen=True)
class RunContext:
    """What every long computation is handed.

    Attributes:
        device: where tensors live during the run.
        seed: the root of all randomness; each consumer draws its own stream from it.
        progress: called as work advances; must be cheap.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    progress: Progress = silent

    def seed_for(self, stream: str) -> int:
        """A seed of its own for one named consumer, so that adding a consumer disturbs no other."""
        digest = hashlib.sha256(f"{self.seed}/{stream}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def generator(self, stream: str) -> torch.Generator:
        """A CPU generator seeded by ``seed_for(stream)``."""
        return torch.Generator().manual_seed(self.seed_for(stream))

    @contextmanager
    def seeded(self, stream: str) -> Iterator[None]:
        """Seed torch's own generators, which dropout draws from, and put them back afterwards."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed_for(stream))
            yield
