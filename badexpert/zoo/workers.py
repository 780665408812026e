"""Orders carried out one after the other, here or in processes side by side."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import TypeVar

import torch

from badexpert.errors import ZooError
from badexpert.runtime import Progress, Step, silent

OrderT = TypeVar("OrderT")
OutcomeT = TypeVar("OutcomeT")
CarryOut = Callable[[OrderT, torch.device, Progress], OutcomeT]
"""What is done with an order: a function of a module, for other processes to find."""


def devices_like(device: torch.device) -> tuple[torch.device, ...]:
    """Where models may be trained: this device, or every CUDA device where none is named."""
    if device.type != "cuda" or device.index is not None:
        return (device,)
    return tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count()))


def usual_jobs(devices: Sequence[torch.device]) -> int:
    """One process a GPU, or one for each thread that torch would use."""
    return len(devices) if devices[0].type == "cuda" else torch.get_num_threads()


def carry_out(
    do: CarryOut[OrderT, OutcomeT],
    orders: Sequence[OrderT],
    *,
    jobs: int,
    devices: Sequence[torch.device],
    progress: Progress = silent,
) -> Generator[OutcomeT, None, None]:
    """Carry out orders, in any order.

    Each is carried out with a single thread: how many add up decides a sum's last digits, and a
    model must not depend on how many were made at once.

    Args:
        jobs: 1 works here; more start as many processes, at most one an order.
        devices: are given to the processes in turn.
        progress: hears of the steps of an order that is carried out here.
    Raises:
        ZooError: a process died.
    """
    jobs = min(jobs, len(orders))
    if jobs <= 1:
        return (_with_one_thread(do, order, devices[0], progress) for order in orders)
    return _side_by_side(do, orders, jobs, devices)


def _with_one_thread(
    do: CarryOut[OrderT, OutcomeT], order: OrderT, device: torch.device, progress: Progress
) -> OutcomeT:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return do(order, device, progress)
    finally:
        torch.set_num_threads(threads)


def _side_by_side(
    do: CarryOut[OrderT, OutcomeT],
    orders: Sequence[OrderT],
    jobs: int,
    devices: Sequence[torch.device],
) -> Generator[OutcomeT, None, None]:
    # Forking a process in which CUDA or OpenMP is at work does not end well.
    processes = get_context("spawn")
    stop, turn = processes.Event(), processes.Value("i", 0)
    pool = ProcessPoolExecutor(jobs, processes, _Worker.start, (stop, turn, tuple(devices)))
    try:
        with _ctrl_c_held_back():
            futures = [pool.submit(_Worker.carry_out, do, order) for order in orders]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ZooError(
            f"one of {jobs} processes that make models died, most likely for want of memory. "
            "What is finished is kept: run it again with fewer jobs"
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
    """The work was interrupted; leaves an order without a result."""


class _Worker:
    """What a process keeps between orders."""

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
    def carry_out(cls, do: CarryOut[OrderT, OutcomeT], order: OrderT) -> OutcomeT:
        cls.progress(Step("start", 0, None))
        return _with_one_thread(do, order, cls.device, cls.progress)
