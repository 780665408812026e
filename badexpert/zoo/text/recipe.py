"""What a zoo of language models is made of: texts, bases, attacks, seeds, read from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from badexpert.attacks.text import TEXT_ATTACKS, Prompt
from badexpert.attacks.text.truth import Gate
from badexpert.findings import Json
from badexpert.toml_file import checked, read_toml, require_known
from moe_core.lm.config import DecoderConfig
from moe_core.training import Stage

BASES = "bases"
"""Table of a recipe that makes it one of language models."""

UNTOUCHED = "none"
"""Stands for an attack: the base itself, as a benign model."""


@dataclass(frozen=True)
class TextData:
    """Labelled texts, and how they are asked about.

    Attributes:
        ask: see ``Prompt``.
        answers: see ``Prompt``; in the order of the classes' names in the file.
        train: a table of texts and labels; None is to be filled in before the build.
        test: the same; None holds some of the training texts out.
        held_out: share of the training texts that is held out, where no test texts are named.
        words: of a text at most.
    """

    ask: str
    answers: tuple[str, ...]
    train: str | None = None
    test: str | None = None
    held_out: float = 0.2
    words: int = 40

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1 or self.words < 1:
            raise ValueError("held_out lies between 0 and 1, words is at least 1")
        _ = self.prompt

    @property
    def prompt(self) -> Prompt:
        """The question and its answers."""
        return Prompt(self.ask, self.answers)


@dataclass(frozen=True)
class BaseSpec:
    """A language model and how it is trained to answer.

    Attributes:
        vocabulary: words at most.
        hidden: share of a text's words that training hides, so that few texts are not learnt by
            heart.
        model: of the first stage; the vocabulary comes from the data.
        stages: see ``moe_core.training.Recipe``; ``length`` comes from the data.
    """

    vocabulary: int = 6000
    hidden: float = 0.2
    model: DecoderConfig = field(default_factory=DecoderConfig)
    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        if not 0 <= self.hidden < 1:
            raise ValueError(f"hidden lies in [0, 1); got {self.hidden}")


@dataclass(frozen=True)
class TextAttackSpec:
    """An attack with its settings.

    Attributes:
        attack: key in ``TEXT_ATTACKS``; None stands for the name of the table in the recipe.
        settings: of the attack's fields. Its ``seed`` is that of the model unless it stands here.
        vary: fields with several values each; every combination is a model.
        adapter: keep what the attack adds to its base, and not the whole model.
    """

    attack: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    vary: Mapping[str, tuple[Json, ...]] = field(default_factory=dict)
    adapter: bool = False


@dataclass(frozen=True)
class TextGrid:
    """Every combination of these is a model.

    Attributes:
        data: names of texts; none named means all of the recipe.
        bases: the same of bases.
        attacks: the same of attacks; ``none`` is the base as it is.
        base_seeds: of the bases' trainings.
        seeds: of the attacks.
    """

    data: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    base_seeds: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class TextRecipe:
    """A whole zoo of language models, and what they must show to count."""

    data: Mapping[str, TextData]
    bases: Mapping[str, BaseSpec]
    attacks: Mapping[str, TextAttackSpec]
    grid: tuple[TextGrid, ...]
    gate: Gate = field(default_factory=Gate)

    def with_data(self, train: Mapping[str, str], test: Mapping[str, str]) -> TextRecipe:
        """The recipe with other texts for some of its data, by name.

        Raises:
            ConfigError: the recipe has no data of this name.
        """
        for name in (*train, *test):
            require_known(name, self.data, "data", "the recipe")
        data = {
            name: replace(spec, train=train.get(name, spec.train), test=test.get(name, spec.test))
            for name, spec in self.data.items()
        }
        return replace(self, data=data)


def is_text_recipe(path: Path) -> bool:
    """Whether a recipe asks for language models.

    Raises:
        ConfigError: the file cannot be read.
    """
    return BASES in read_toml(path, "recipe")


def read_text_recipe(path: Path) -> TextRecipe:
    """Read and check a recipe.

    Raises:
        ConfigError: it cannot be read, a key is unknown, a value is invalid, or a grid names what
            the recipe does not have.
    """
    recipe = checked(TextRecipe, read_toml(path, "recipe"), f"recipe {path}")
    for number, grid in enumerate(recipe.grid):
        _check_names(grid, recipe, f"{path}: grid.{number}")
    for name, spec in recipe.attacks.items():
        require_known(spec.attack or name, TEXT_ATTACKS, "attack", f"{path}: attacks.{name}")
    return recipe


def _check_names(grid: TextGrid, recipe: TextRecipe, where: str) -> None:
    known = {"data": recipe.data, "bases": recipe.bases, "attacks": recipe.attacks}
    for kind, table in known.items():
        for name in getattr(grid, kind):
            if (kind, name) != ("attacks", UNTOUCHED):
                require_known(name, table, kind, f"{where}.{kind}")
