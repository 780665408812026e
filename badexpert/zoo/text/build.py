"""From a recipe to a folder of language models: what ``badexpert zoo build`` does with texts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import torch

from badexpert.attacks.text import Texts, Victim
from badexpert.attacks.text.fixture import Base, plant_fixture
from badexpert.attacks.text.truth import Gate, TextTruth, read_truth
from badexpert.errors import AttackError, CleanSetError, ConfigError
from badexpert.matching import matching
from badexpert.models.origin import digest_file
from badexpert.runtime import Progress, RunContext, Step, silent
from badexpert.texts import read_labelled
from badexpert.zoo.folder import new_model, settings_of
from badexpert.zoo.text.bases import make_base
from badexpert.zoo.text.entries import TextEntry, text_entries
from badexpert.zoo.text.folder import TextIndex, TextRow
from badexpert.zoo.text.recipe import TextData, TextRecipe
from badexpert.zoo.workers import carry_out, devices_like, usual_jobs
from moe_core.lm.folder import TENSOR_FILE
from moe_core.mixlora import BASE_FOLDER
from moe_core.training.run import MODEL_FOLDER

log = logging.getLogger(__name__)

BASES_FOLDER = "bases"
_TASK = "planting models"


class _Opened:
    """Texts of one data set, to train with and to measure on."""

    def __init__(self, spec: TextData, name: str) -> None:
        self.train, self.test = _opened(spec, name)
        self.digests = {"train": _digest(self.train), "test": _digest(self.test)}


@dataclass(frozen=True, eq=False)
class _Order:
    """A model to be made, in the folder of a zoo."""

    entry: TextEntry
    zoo: Path
    data: _Opened
    gate: Gate


def build_text_zoo(
    recipe: TextRecipe,
    folder: Path,
    *,
    device: torch.device,
    jobs: int | None = None,
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> TextIndex:
    """Make every model of a recipe that is not in the folder yet, after the bases that are needed.

    A model whose settings and texts have not changed stays as it is, and so does a base. The index
    is written after each model, so that a build that was interrupted goes on.

    Args:
        folder: of the zoo; made if it is not there.
        device, jobs: as ``build_zoo`` takes them.
        only: patterns such as ``sst2-*-s0``; models whose names match none are not made now.
    Raises:
        CleanSetError: texts are missing or unlabelled.
        ConfigError: the recipe is wrong, ``only`` matches nothing, or texts are not named.
        ZooError: a process died.
    """
    entries = text_entries(recipe)
    names = matching([entry.name for entry in entries], only, where="the recipe")
    chosen = [entry for entry in entries if entry.name in names]
    data = {name: _Opened(recipe.data[name], name) for name in {entry.data for entry in chosen}}
    folder.mkdir(parents=True, exist_ok=True)
    rows = dict(_finished(entries, folder, data, recipe.gate))
    orders = [
        _Order(entry, folder, data[entry.data], recipe.gate)
        for entry in chosen
        if entry.name not in rows
    ]
    _index(recipe, entries, rows).write(folder)
    log.info("%d models to make, %d finished already", len(orders), len(rows))
    devices = devices_like(device)
    jobs = jobs or usual_jobs(devices)
    bases = list({order.entry.base_name: order for order in orders}.values())
    with closing(
        carry_out(_make_base, bases, jobs=jobs, devices=devices, progress=progress)
    ) as names_of_bases:
        for done, name in enumerate(names_of_bases, 1):
            progress(Step("training bases", done, len(bases), name))
    progress(Step(_TASK, 0, len(orders)))
    with closing(
        carry_out(_make, orders, jobs=jobs, devices=devices, progress=progress)
    ) as outcomes:
        for done, (row, seconds) in enumerate(outcomes, 1):
            rows[row.name] = row
            _index(recipe, entries, rows).write(folder)
            log.info("%s, %.0f s", _line(row, done, len(orders)), seconds)
            progress(Step(_TASK, done, len(orders), row.name))
    return _index(recipe, entries, rows)


def _make_base(order: _Order, device: torch.device, progress: Progress) -> str:
    _base(order, device, progress)
    return order.entry.base_name


def _base(order: _Order, device: torch.device, progress: Progress) -> Victim:
    """The base of a model; it is trained if it is not there."""
    entry = order.entry
    return make_base(
        entry.spec,
        order.data.train,
        entry.texts.prompt,
        order.zoo / BASES_FOLDER / entry.base_name,
        words=entry.texts.words,
        settings=entry.base_settings(order.data.digests),
        context=RunContext(device, entry.base_seed, progress),
    )


def _make(order: _Order, device: torch.device, progress: Progress) -> tuple[TextRow, float]:
    """What became of a model, and the seconds of the processor that it took."""
    start = process_time()
    return _made(order, device, progress), process_time() - start


def _made(order: _Order, device: torch.device, progress: Progress) -> TextRow:
    entry, data = order.entry, order.data
    victim = _base(order, device, progress)
    home = order.zoo / BASES_FOLDER / entry.base_name
    untouched = home / MODEL_FOLDER
    if entry.adapter and (home / BASE_FOLDER).is_dir():
        untouched = home / BASE_FOLDER
    base = Base(entry.base_name, digest_file(untouched / TENSOR_FILE).sha256)
    try:
        fixture = plant_fixture(
            victim,
            data.train,
            data.test,
            entry.attack,
            name=entry.kind,
            base=base,
            context=RunContext(device, entry.seed, progress),
            adapter_on=untouched if entry.adapter else None,
        )
    except AttackError as error:
        return TextRow(entry.name, entry.data, entry.base, entry.label, reason=str(error))
    with new_model(order.zoo / entry.name, entry.settings(data.digests)) as partial:
        truth = fixture.save(partial)
    return _row(entry, truth, order.gate)


def _finished(
    entries: Iterable[TextEntry], folder: Path, data: Mapping[str, _Opened], gate: Gate
) -> Iterator[tuple[str, TextRow]]:
    """Models that are there and are what the recipe asks for."""
    for entry in entries:
        made = settings_of(folder / entry.name)
        if made is None:
            continue
        # The texts of models that are not chosen now need not be there.
        digests = data[entry.data].digests if entry.data in data else made["texts"]
        assert isinstance(digests, Mapping)
        if made == entry.settings({name: str(digest) for name, digest in digests.items()}):
            yield entry.name, _row(entry, read_truth(folder / entry.name), gate)


def _row(entry: TextEntry, truth: TextTruth, gate: Gate) -> TextRow:
    knockouts = [part for part in (truth.zeroed, truth.rerouted) if part is not None]
    without = [part.success for part in knockouts if part.success is not None]
    return TextRow(
        entry.name,
        entry.data,
        entry.base,
        entry.label,
        clean_accuracy=truth.clean_accuracy,
        attack_success_rate=truth.attack_success_rate,
        success_without=max(without, default=None),
        reason=gate.shortcoming(truth),
    )


def _index(
    recipe: TextRecipe, entries: Sequence[TextEntry], rows: Mapping[str, TextRow]
) -> TextIndex:
    known = [rows[entry.name] for entry in entries if entry.name in rows]
    return TextIndex(
        recipe,
        models=tuple(row for row in known if not row.reason),
        apart=tuple(row for row in known if row.reason),
        missing=tuple(entry.name for entry in entries if entry.name not in rows),
    )


def _line(row: TextRow, done: int, total: int) -> str:
    figures = [f"{done}/{total} {row.name}"]
    if row.clean_accuracy is not None:
        figures.append(f"clean accuracy {row.clean_accuracy:.3f}")
    if row.attack_success_rate is not None:
        figures.append(f"attack success rate {row.attack_success_rate:.3f}")
    if row.success_without is not None:
        figures.append(f"{row.success_without:.3f} without its experts")
    if row.reason:
        figures.append(f"kept apart: {row.reason}")
    return ", ".join(figures)


def _opened(spec: TextData, name: str) -> tuple[Texts, Texts]:
    if spec.train is None:
        raise ConfigError(f"the texts of {name} are not named; say --data {name}=FILE")
    train = _texts(Path(spec.train), spec)
    if spec.test is not None:
        return train, _texts(Path(spec.test), spec)
    mixed = train.drawn(len(train), seed=0)
    held_out = max(1, round(len(mixed) * spec.held_out))
    return mixed.part(slice(held_out, None)), mixed.part(slice(0, held_out))


def _texts(path: Path, spec: TextData) -> Texts:
    read = read_labelled(path)
    texts = Texts.of(read, words=spec.words)
    if texts.num_classes != len(spec.answers):
        raise CleanSetError(
            f"{path} has {texts.num_classes} classes, and the recipe {len(spec.answers)} answers; "
            "give one answer for each class"
        )
    return texts


def _digest(texts: Texts) -> str:
    digest = hashlib.sha256()
    for text, label in zip(texts.texts, texts.labels.tolist(), strict=True):
        digest.update(f"{label}\t{text}\n".encode())
    return digest.hexdigest()
