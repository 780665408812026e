"""Models made one after the other, here or in processes side by side."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from time import perf_counter

import torch

from badexpert.attacks.truth import GroundTruth
from badexpert.errors import AttackError, ModelLoadError, ZooError
from badexpert.findings import Json
from badexpert.runtime import Progress, RunContext, Step, silent
from badexpert.zoo.entries import Entry
from badexpert.zoo.make import make_model


@dataclass(frozen=True)
class Order:
    """A model to be made.

    Attributes:
        settings: of the entry, as ``make_model`` takes them.
        folder: of the model.
    """

    entry: Entry
    settings: dict[str, Json]
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of an order.

    Attributes:
        truth: None if the model could not be made.
        reason: why not; empty otherwise.
        seconds: that it took.
    """

    entry: Entry
    truth: GroundTruth | None
    reason: str
    seconds: float


def devices_like(device: torch.device) -> tuple[torch.device, ...]:
    """Where models may be trained: this device, or every CUDA device where none is named."""
    if device.type != "cuda" or device.index is not None:
        return (device,)
    return tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count()))


def usual_jobs(devices: Sequence[torch.device]) -> int:
    """One process a GPU, or one for each thread that torch would use."""
    return len(devices) if devices[0].type == "cuda" else torch.get_num_threads()


def carry_out(
    orders: Sequence[Order], *, jobs: int, devices: Sequence[torch.device]
) -> Generator[Outcome, None, None]:
    """Make models, in any order.

    Each is made with a single thread: how many add up decides a sum's last digits, and a model
    must not depend on how many were made at once.

    Args:
        jobs: 1 makes them here; more start as many processes, at most one an order.
        devices: are given to the processes in turn.
    Raises:
        ZooError: a process died.
    """
    jobs = min(jobs, len(orders))
    if jobs <= 1:
        return (_carry_out(order, devices[0], silent) for order in orders)
    return _side_by_side(orders, jobs, devices)


def _carry_out(order: Order, device: torch.device, progress: Progress) -> Outcome:
    context = RunContext(device, order.entry.seed, progress)
    start = perf_counter()
    truth, reason = None, ""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        truth = make_model(order.entry, order.settings, order.folder, context)
    except (AttackError, ModelLoadError) as error:
        reason = str(error)
    finally:
        torch.set_num_threads(threads)
    return Outcome(order.entry, truth, reason, perf_counter() - start)


def _side_by_side(
    orders: Sequence[Order], jobs: int, devices: Sequence[torch.device]
) -> Generator[Outcome, None, None]:
    # Forking a process in which CUDA or OpenMP is at work does not end well.
    processes = get_context("spawn")
    stop, turn = processes.Event(), processes.Value("i", 0)
    pool = ProcessPoolExecutor(jobs, processes, _Worker.start, (stop, turn, tuple(devices)))
    try:
        with _ctrl_c_held_back():
            futures = [pool.submit(_Worker.carry_out, order) for order in orders]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ZooError(
            f"one of {jobs} processes that train models died, most likely for want of memory. "
            "What is finished is kept: build again with fewer jobs"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Processes started meanwhile are deaf to it for good, which this one is only for a moment.

    A terminal sends Ctrl-C to all of them; only the first may answer, and tells the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _StoppedError(Exception):
    """The build was interrupted; leaves the training without a result."""


class _Worker:
    """What a process that makes models keeps between orders."""

    device: torch.device
    progress: Callable[[Step], None]

    @classmethod
    def start(cls, stop: Event, turn: Synchronized[int], devices: tuple[torch.device, ...]) -> None:
        with turn.get_lock():
            cls.device = devices[turn.value % len(devices)]
            turn.value += 1

        def heed(step: Step) -> None:
            if stop.is_set():
                raise _StoppedError

        cls.progress = heed

    @classmethod
    def carry_out(cls, order: Order) -> Outcome:
        cls.progress(Step("start", 0, None))
        return _carry_out(order, cls.device, cls.progress)
