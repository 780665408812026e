"""What a zoo is made of: data sets, architectures, attacks, seeds, read from TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from badexpert.attacks import ATTACKS
from badexpert.findings import Json
from badexpert.preprocessing import Preprocessing
from badexpert.toml_file import checked, read_toml, require_known

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class DataSpec:
    """A data set: what every model of it is trained and tested with.

    Attributes:
        preprocessing: of every model of these data.
        train: labelled images, a path or a name; None is to be filled in before the build.
        test: the same; None holds some of the training images out.
        held_out: share of the training images that is held out, where no test images are named.
        root: folder of a torchvision data set.
        train_samples: use that many training images, drawn evenly over the classes; None uses all.
        test_samples: the same of the test images.
        training: settings of ``Training`` that these data ask for, such as ``flip``.
    """

    preprocessing: Preprocessing
    train: str | None = None
    test: str | None = None
    held_out: float = 0.2
    root: str | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    training: Mapping[str, Json] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1); got {self.held_out}")
        for name in ("train_samples", "test_samples"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be positive; got {count}")


@dataclass(frozen=True)
class ArchitectureSpec:
    """A network and how it likes to be trained.

    Attributes:
        arch: ``timm:NAME``, ``torchvision:NAME`` or ``python:package.module:factory``.
        arch_args: keyword arguments of its factory.
        training: settings of ``Training``; they go before those of the data.
    """

    arch: str
    arch_args: Mapping[str, Json] = field(default_factory=dict)
    training: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackSpec:
    """An attack with its settings.

    Attributes:
        attack: key in ``ATTACKS``; None stands for the name of the table in the recipe.
        rate: share of the training images to poison; None takes the attack's own.
        settings: of the attack's fields. Its ``seed`` is that of the model unless it stands here.
        training: settings of ``Training``; they go before those of data and architecture.
    """

    attack: str | None = None
    rate: float | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    training: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Every combination of these is a backdoored model, and has a benign twin.

    Attributes:
        data: names of data sets; none named means all of the recipe.
        architectures: the same of architectures.
        attacks: the same of attacks.
        seeds: of the trainings.
        least_accuracy: a model below, on clean test images, is kept apart.
    """

    least_accuracy: float
    data: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not 0 <= self.least_accuracy <= 1:
            raise ValueError(f"least_accuracy must lie in [0, 1]; got {self.least_accuracy}")
        if not self.seeds:
            raise ValueError("seeds must not be empty")


@dataclass(frozen=True)
class Recipe:
    """A whole zoo, and how good its models must be to count.

    Attributes:
        least_success: attack success rate below which an attack is said not to have taken.
    """

    data: Mapping[str, DataSpec]
    architectures: Mapping[str, ArchitectureSpec]
    attacks: Mapping[str, AttackSpec]
    grid: tuple[Grid, ...]
    least_success: float = 0.8

    def __post_init__(self) -> None:
        for name in (*self.data, *self.architectures, *self.attacks):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot be a name: models and their folders are called after it. "
                    "Use letters, digits, '_', '.' and '-'"
                )

    def with_data(self, train: Mapping[str, str], test: Mapping[str, str]) -> Recipe:
        """The recipe with other images for some of its data sets, by name.

        Raises:
            ConfigError: the recipe has no data set of this name.
        """
        for name in (*train, *test):
            require_known(name, self.data, "data set", "the recipe")
        data = {
            name: replace(spec, train=train.get(name, spec.train), test=test.get(name, spec.test))
            for name, spec in self.data.items()
        }
        return replace(self, data=data)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        ConfigError: it cannot be read, a key is unknown, a value is invalid, or a grid names what
            the recipe does not have.
    """
    recipe = checked(Recipe, read_toml(path, "recipe"), f"recipe {path}")
    for number, grid in enumerate(recipe.grid):
        _check_names(grid, recipe, f"{path}: grid.{number}")
    for name, spec in recipe.attacks.items():
        require_known(spec.attack or name, ATTACKS, "attack", f"{path}: attacks.{name}")
    return recipe


def _check_names(grid: Grid, recipe: Recipe, where: str) -> None:
    for kind, known in (
        ("data", recipe.data),
        ("architectures", recipe.architectures),
        ("attacks", recipe.attacks),
    ):
        for name in getattr(grid, kind):
            require_known(name, known, kind, f"{where}.{kind}")
