"""Measure a whole grid, a JSON file a cell; what is finished is not measured again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
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
from badexpert.runtime import RunContext, Step
from badexpert.zoo import Zoo, build_zoo, read_recipe, read_zoo

logger = logging.getLogger(__name__)

ZOO = "zoo"
"""Where a zoo is built, in the folder of the results."""


def open_zoo(path: Path, folder: Path, context: RunContext) -> Zoo:
    """A zoo by its folder, or by its recipe, which is built first.

    Args:
        folder: of the results; a zoo that is built lies in it.
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
    return build_zoo(recipe, folder / ZOO, device=context.device, progress=context.progress)


def run_bench(
    recipe: BenchRecipe,
    zoo: Zoo,
    folder: Path,
    context: RunContext,
    *,
    only: Sequence[str] = (),
) -> Results:
    """Measure what is not measured yet.

    A cell that its detector cannot be measured in is kept with the reason, and the others go on.

    Args:
        folder: of the results; may hold earlier ones.
        context: its seed means nothing here, the recipe has its own.
        only: patterns such as ``cifar10-*-s0*``; models whose names match none are not measured
            now.
    Raises:
        CleanSetError: the test images are missing.
        ConfigError: the recipe does not suit the zoo, ``only`` matches nothing, or the folder
            cannot be written.
        ModelLoadError: a model or a trigger is missing or was changed.
    """
    index, planned = plan(recipe, zoo, context)
    models = list(dict.fromkeys(job.place.model for job in planned))
    chosen = matching(models, only, where="the zoo")
    index.write(folder)
    jobs = [job for job in planned if job.place.model in chosen]
    todo = [job for job in jobs if not _is_finished(job, folder)]
    done = len(jobs) - len(todo)
    if done:
        logger.info("%d of %d cells were measured before", done, len(jobs))
    for cell in _measured(todo, recipe, context):
        cell.write(folder / CELLS)
        done += 1
        logger.info("%s", _said(cell))
        context.progress(Step("measuring cells", done, len(jobs), cell.place.model))
    return Results.read(folder)


def _is_finished(job: Job, folder: Path) -> bool:
    path = folder / CELLS / job.place.file
    try:
        cell = read_cell(path)
    except ConfigError:  # not there, or of another version
        return False
    return cell.digest == job.digest and not cell.retry


def _measured(jobs: Iterable[Job], recipe: BenchRecipe, context: RunContext) -> Iterator[Cell]:
    """Jobs lie a model, a seed and a size together; each level shares what is below it."""
    for subject, of_model in groupby(jobs, key=lambda job: job.subject):
        suspect = subject.suspect(context)
        for seed, of_seed in groupby(of_model, key=lambda job: job.place.seed):
            yield from _of_seed(suspect, subject, seed, of_seed, recipe, context)


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


@cache
def _in_memory(images: CleanSet) -> CleanSet:
    """Decoded once, not once a detector."""
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
