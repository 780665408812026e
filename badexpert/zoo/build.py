"""From a recipe to a folder of models: what ``badexpert zoo build`` does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from badexpert.attacks.truth import GroundTruth, read_truth
from badexpert.matching import matching
from badexpert.runtime import Progress, Step, silent
from badexpert.zoo.entries import Entry, entries_of
from badexpert.zoo.folder import Index, Row, Zoo, read_zoo, settings_of
from badexpert.zoo.images import ZooData, open_data
from badexpert.zoo.make import Order, Outcome, make_ordered
from badexpert.zoo.recipe import Recipe
from badexpert.zoo.workers import carry_out, devices_like, usual_jobs

log = logging.getLogger(__name__)

_TASK = "training models"


def build_zoo(
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device,
    jobs: int | None = None,
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> Zoo:
    """Make every model of a recipe that is not in the folder yet.

    A model whose settings and images have not changed stays as it is. The index is written after
    each model, so that a build that was interrupted goes on, and half a zoo can be read.

    Args:
        folder: of the zoo; made if it is not there.
        device: ``cuda`` without a number uses all of them.
        jobs: processes, each with one thread; None takes as many as torch has threads, or one a
            GPU. A single one works in this process and leaves torch's threads as they are.
        only: patterns such as ``cifar10-*-s0*``; models whose names match none are not made now.
    Raises:
        CleanSetError: images are missing or unlabelled.
        ConfigError: the recipe is wrong, ``only`` matches nothing, or images are not named.
        ZooError: a process died.
    """
    entries = entries_of(recipe)
    names = matching([entry.name for entry in entries], only, where="the recipe")
    chosen = [entry for entry in entries if entry.name in names]
    opened = {entry.data: entry.spec for entry in chosen}
    data = {name: open_data(spec, name) for name, spec in opened.items()}
    folder.mkdir(parents=True, exist_ok=True)
    rows = dict(_finished(entries, folder, data))
    orders = [
        Order(entry, entry.settings(_digests(data[entry.data])), folder / entry.name)
        for entry in chosen
        if entry.name not in rows
    ]
    _index(recipe, entries, rows).write(folder)
    log.info("%s", _announcement(orders, data, finished=len(rows)))
    devices = devices_like(device)
    outcomes = carry_out(make_ordered, orders, jobs=jobs or usual_jobs(devices), devices=devices)
    progress(Step(_TASK, 0, len(orders)))
    with closing(outcomes):
        for done, outcome in enumerate(outcomes, 1):
            rows[outcome.entry.name] = _row_of(outcome.entry, outcome.truth, outcome.reason)
            _index(recipe, entries, rows).write(folder)
            log.info("%s", _line(outcome, rows[outcome.entry.name], done, len(orders)))
            progress(Step(_TASK, done, len(orders), outcome.entry.name))
    return read_zoo(folder)


def _finished(
    entries: Iterable[Entry], folder: Path, data: Mapping[str, ZooData]
) -> Iterator[tuple[str, Row]]:
    """Models that are there and are what the recipe asks for."""
    for entry in entries:
        made = settings_of(folder / entry.name)
        if made is None:
            continue
        # The images of models that are not chosen now need not be there.
        images = _digests(data[entry.data]) if entry.data in data else made["images"]
        if made == entry.settings(images):
            yield entry.name, _row_of(entry, read_truth(folder / entry.name))


def _digests(data: ZooData) -> dict[str, str]:
    return {"train": data.train.digest(), "test": data.test.digest()}


def _row_of(entry: Entry, truth: GroundTruth | None, reason: str = "") -> Row:
    row = Row(entry.name, entry.data, entry.architecture, entry.attack, entry.seed, entry.twin_of)
    if truth is None:
        return replace(row, reason=reason)
    return replace(
        row,
        clean_accuracy=truth.clean_accuracy,
        attack_success_rate=truth.attack_success_rate,
        reason=_shortcoming(entry, truth),
    )


def _shortcoming(entry: Entry, truth: GroundTruth) -> str:
    """Why a model must not be counted; empty if it may."""
    success = truth.attack_success_rate
    if truth.clean_accuracy < entry.least_accuracy:
        return f"clean accuracy {truth.clean_accuracy:.3f} is below {entry.least_accuracy}"
    if truth.attack is not None and success is None:
        return "no test image counts towards the attack success rate"
    if success is not None and success < entry.least_success:
        return f"attack success rate {success:.3f} is below {entry.least_success}"
    return ""


def _index(recipe: Recipe, entries: Sequence[Entry], rows: Mapping[str, Row]) -> Index:
    known = [rows[entry.name] for entry in entries if entry.name in rows]
    return Index(
        recipe,
        models=tuple(row for row in known if not row.reason),
        apart=tuple(row for row in known if row.reason),
        missing=tuple(entry.name for entry in entries if entry.name not in rows),
    )


def _announcement(orders: Sequence[Order], data: Mapping[str, ZooData], finished: int) -> str:
    images = sum(
        order.entry.training.epochs * len(data[order.entry.data].train) for order in orders
    )
    return (
        f"{len(orders)} models to make, {finished} finished already; about {images:,} images to "
        "train on"
    )


def _line(outcome: Outcome, row: Row, done: int, total: int) -> str:
    figures = [f"{done}/{total} {row.name}", f"{outcome.seconds:.0f} s"]
    if row.clean_accuracy is not None:
        figures.append(f"clean accuracy {row.clean_accuracy:.3f}")
    if row.attack_success_rate is not None:
        figures.append(f"attack success rate {row.attack_success_rate:.3f}")
    if row.reason:
        figures.append(f"kept apart: {row.reason}")
    return ", ".join(figures)
