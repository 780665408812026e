"""Measure a whole grid, a JSON file a cell; what is finished is not measured again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import torch

from badexpert.attacks.images import to_bytes
from badexpert.bench.cells import Cell, read_cell
from badexpert.bench.plan import Job, plan
from badexpert.bench.recipe import BenchRecipe
from badexpert.bench.results import CELLS, Results
from badexpert.bench.subjects import Subject
from badexpert.bench.workbench import Outcome, Scene, Workbench
from badexpert.cleanset import CleanSet
from badexpert.describe import versions
from badexpert.errors import BadExpertError, ConfigError
from badexpert.matching import matching
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import Progress, RunContext, Step
from badexpert.zoo import Zoo, build_zoo, read_recipe, read_zoo
from badexpert.zoo.workers import carry_out, devices_like, usual_jobs

logger = logging.getLogger(__name__)

ZOO = "zoo"
"""Where a zoo is built, in the folder of the results."""


def open_zoo(path: Path, folder: Path, context: RunContext, *, jobs: int | None = None) -> Zoo:
    """A zoo by its folder, or by its recipe, which is built first.

    Args:
        folder: of the results; a zoo that is built lies in it.
        jobs: as ``build_zoo`` takes them.
    Raises:
        ConfigError: there is neither, or the recipe does not say where its images are.
    """
    if path.is_dir():
        return read_zoo(path)
    recipe = read_recipe(path)
    if unnamed := [name for name, spec in recipe.data.items() if spec.train is None]:
        raise ConfigError(
            f"{path} does not say where the images of {', '.join(unnamed)} are. Build the zoo "
            "with badexpert zoo build and --data, and name its folder with --zoo"
        )
    device, progress = context.device, context.progress
    return build_zoo(recipe, folder / ZOO, device=device, jobs=jobs, progress=progress)


@dataclass(frozen=True, eq=False)
class _Order:
    """Cells of one model to be measured, and where they go."""

    jobs: tuple[Job, ...]
    recipe: BenchRecipe
    cells: Path


def run_bench(
    recipe: BenchRecipe,
    zoo: Zoo,
    folder: Path,
    context: RunContext,
    *,
    jobs: int | None = None,
    only: Sequence[str] = (),
) -> Results:
    """Measure what is not measured yet.

    A cell that its detector cannot be measured in is kept with the reason, and the others go on.

    Args:
        folder: of the results; may hold earlier ones.
        context: its seed means nothing here, the recipe has its own.
        jobs: as ``build_zoo`` takes them; the cells of a model are measured by one process.
        only: patterns such as ``cifar10-*-s0*``; models whose names match none are not measured
            now.
    Raises:
        CleanSetError: the test images are missing.
        ConfigError: the recipe does not suit the zoo, ``only`` matches nothing, or the folder
            cannot be written.
        ModelLoadError: a model or a trigger is missing or was changed.
        ZooError: a process died.
    """
    index, planned = plan(recipe, zoo, context)
    models = list(dict.fromkeys(job.place.model for job in planned))
    chosen = matching(models, only, where="the zoo")
    index.write(folder)
    wanted = [job for job in planned if job.place.model in chosen]
    todo = [job for job in wanted if not _is_finished(job, folder)]
    done = len(wanted) - len(todo)
    if done:
        logger.info("%d of %d cells were measured before", done, len(wanted))
    orders = [
        _Order(tuple(of_model), recipe, folder / CELLS)
        for _, of_model in groupby(todo, key=lambda job: job.place.model)
    ]
    devices = devices_like(context.device)
    measured = carry_out(
        _of_model,
        orders,
        jobs=jobs or usual_jobs(devices),
        devices=devices,
        progress=context.progress,
    )
    with closing(measured):
        for cells in measured:
            done += len(cells)
            for cell in cells:
                logger.info("%s", _said(cell))
            context.progress(Step("measuring cells", done, len(wanted), cells[0].place.model))
    return Results.read(folder)


def _is_finished(job: Job, folder: Path) -> bool:
    path = folder / CELLS / job.place.file
    try:
        cell = read_cell(path)
    except ConfigError:  # not there, or of another version
        return False
    return cell.digest == job.digest and not cell.retry


def _of_model(order: _Order, device: torch.device, progress: Progress) -> list[Cell]:
    """Each file is written as soon as its cell is measured."""
    cells = []
    for cell in _measured(order, RunContext(device)):
        cell.write(order.cells)
        cells.append(cell)
        progress(Step(cell.place.model, len(cells), len(order.jobs), cell.place.detector))
    return cells


def _measured(order: _Order, context: RunContext) -> Iterator[Cell]:
    """Jobs lie a seed and a size together; each level shares what is below it."""
    subject = order.jobs[0].subject
    suspect = subject.suspect(context)
    for seed, of_seed in groupby(order.jobs, key=lambda job: job.place.seed):
        yield from _of_seed(suspect, subject, seed, of_seed, order.recipe, context)


def _of_seed(
    suspect: VisionSuspect,
    subject: Subject,
    seed: int,
    jobs: Iterable[Job],
    recipe: BenchRecipe,
    context: RunContext,
) -> Iterator[Cell]:
    test = _in_memory(subject.test)
    traffic, rest = test.split(recipe.tested / len(test), seed=seed)
    scene = Scene.of(suspect, subject.attack(), traffic, benign=subject.benign)
    seeded = RunContext(context.device, seed)
    for size, of_size in groupby(jobs, key=lambda job: job.place.clean_size):
        bench = Workbench(scene, rest, size, fpr=recipe.fpr, context=seeded)
        for job in of_size:
            yield _cell(job, bench, context)


@lru_cache(maxsize=2)
def _in_memory(images: CleanSet) -> CleanSet:
    """Decoded once, not once a seed; a process has copies of its own for each model."""
    pixels, labels = images.tensors()
    return CleanSet.from_tensors(to_bytes(pixels), labels, num_classes=images.num_classes)


def _cell(job: Job, bench: Workbench, context: RunContext) -> Cell:
    error, retry, outcome = None, False, Outcome()
    try:
        outcome = bench.measure(job.place.detector, job.extraction)
    except BadExpertError as reason:
        error = str(reason)
    except RuntimeError as reason:  # torch's, such as a device that is out of memory
        error, retry = f"{type(reason).__name__}: {reason}".splitlines()[0], True
    return Cell(
        place=job.place,
        digest=job.digest,
        device=str(context.device),
        threads=torch.get_num_threads(),
        versions=dict(versions()),
        error=error,
        retry=retry,
        **outcome._asdict(),
    )


def _said(cell: Cell) -> str:
    place = cell.place
    head = f"{place.model}, {place.detector}, {place.clean_size} clean images, seed {place.seed}"
    if cell.detection is not None and cell.detection.auroc is not None:
        return f"{head}: AUROC {cell.detection.auroc:.4f}"
    if cell.false_positives is not None:
        return f"{head}: {cell.false_positives.clean:.2%} of clean inputs flagged"
    return f"{head}: {cell.error or 'no triggered input succeeded'}"
