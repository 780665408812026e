"""A zoo on disk: an index, and a folder for each model.

``zoo.json`` lists the models that count, those that are kept apart with the reason, and those that
are not built yet. The folder of a model holds what ``badexpert.attacks.truth.keep`` writes, and
``entry.json`` with all that decided what it became.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree

import torch
from pydantic import TypeAdapter, ValidationError

from badexpert.attacks import Attack
from badexpert.attacks.truth import MODEL, GroundTruth, read_attack, read_truth
from badexpert.errors import ConfigError, ModelLoadError
from badexpert.findings import Json
from badexpert.loading import PreprocessingOverrides, load_suspect
from badexpert.models.vision import VisionSuspect
from badexpert.zoo.recipe import DataSpec, Recipe
from moe_core.files import write_text

_OWN_NETWORKS = "python:badexpert.bench.networks:"
INDEX, ENTRY = "zoo.json", "entry.json"
SCHEMA_VERSION = "1.0.0"


@dataclass(frozen=True)
class Row:
    """A model in the index.

    Attributes:
        name: of the model, and of its folder.
        data: name of its data set.
        architecture: its name in the recipe.
        attack: its name in the recipe; None for a benign twin.
        seed: of the training.
        twin_of: the backdoored model that a benign twin belongs to.
        clean_accuracy: on the test images; None if there is no model.
        attack_success_rate: None for a benign twin, or if there is no model.
        reason: why it is kept apart; empty if it counts.
    """

    name: str
    data: str
    architecture: str
    attack: str | None
    seed: int
    twin_of: str | None
    clean_accuracy: float | None = None
    attack_success_rate: float | None = None
    reason: str = ""

    @property
    def made(self) -> bool:
        """Whether there is a model."""
        return self.clean_accuracy is not None


@dataclass(frozen=True)
class Index:
    """What ``zoo.json`` says.

    Attributes:
        recipe: what the zoo is built from.
        models: those that count.
        apart: those that must not be counted, each with its reason: the attack did not take, the
            accuracy is poor, or it could not be made at all.
        missing: names of those that are not built yet.
    """

    recipe: Recipe
    models: tuple[Row, ...]
    apart: tuple[Row, ...]
    missing: tuple[str, ...]
    schema_version: str = SCHEMA_VERSION

    def write(self, folder: Path) -> None:
        """Replace the index of a zoo in one step."""
        write_text(folder / INDEX, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class ZooModel:
    """A model that counts.

    Attributes:
        row: its line in the index.
        path: its folder.
        truth: what is true of it.
    """

    row: Row
    path: Path
    truth: GroundTruth

    @property
    def name(self) -> str:
        """Unique in the zoo."""
        return self.row.name

    @property
    def data(self) -> str:
        """The name of its data set."""
        return self.row.data

    def suspect(
        self, device: str | torch.device = "cpu", *, factories: Collection[str] = ()
    ) -> VisionSuspect:
        """Load the network.

        Args:
            factories: ``python:`` architectures of the user's own that may be called. This
                package's networks need no leave; a zoo from elsewhere could name anything.
        Raises:
            ModelLoadError: the file is missing or damaged, or names code without leave.
        """
        architecture = self.truth.architecture
        own = not architecture.startswith("python:") or architecture.startswith(_OWN_NETWORKS)
        if not own and architecture not in factories:
            raise ModelLoadError(
                f"{self.path} asks for code that is not this package's, {architecture}; a zoo may "
                f"not choose code to run. If it is yours, say factories = [{architecture!r}] in "
                "the recipe of the benchmark"
            )
        return load_suspect(
            self.path / MODEL,
            arch=self.truth.architecture,
            arch_args=self.truth.arch_args,
            num_classes=self.truth.num_classes,
            preprocessing=PreprocessingOverrides(**asdict(self.truth.preprocessing)),
            device=device,
        )

    def attack(self) -> Attack | None:
        """The attack, ready to stamp; None for a benign twin.

        Raises:
            ModelLoadError: see ``read_attack``.
        """
        return read_attack(self.path)


@dataclass(frozen=True)
class Zoo:
    """A zoo on disk.

    Attributes:
        data: the data sets by name; ``badexpert.zoo.open_data`` opens them.
        models: those that count.
        index: all of ``zoo.json``.
    """

    path: Path
    data: Mapping[str, DataSpec]
    models: tuple[ZooModel, ...]
    index: Index


def read_zoo(folder: Path) -> Zoo:
    """Read a zoo that ``build_zoo`` has begun or finished.

    Raises:
        ConfigError: there is no index, or it is damaged.
        ModelLoadError: the truth of a model is missing or damaged.
    """
    index = read_index(folder)
    models = tuple(
        ZooModel(row, folder / row.name, read_truth(folder / row.name)) for row in index.models
    )
    return Zoo(folder, index.recipe.data, models, index)


def read_index(folder: Path) -> Index:
    """The index of a zoo.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = folder / INDEX
    try:
        return TypeAdapter(Index).validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} is no index of a zoo: {error}. Make it with badexpert zoo build"
        ) from error


def settings_of(folder: Path) -> dict[str, Json] | None:
    """All that decided what a finished model became; None if there is no such model."""
    path = folder / ENTRY
    if not path.is_file():
        return None
    settings: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))
    return settings


@contextmanager
def new_model(folder: Path, settings: Mapping[str, Json]) -> Iterator[Path]:
    """A folder to fill that takes its place, or that of an older model, if the block ends well.

    Args:
        settings: all that decides what the model becomes, as JSON keeps it.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        text = json.dumps(dict(settings), indent=2) + "\n"
        (partial / ENTRY).write_text(text, encoding="utf-8")
        if folder.exists():
            rmtree(folder)
        partial.replace(folder)
    finally:
        rmtree(partial, ignore_errors=True)
