"""A zoo of language models on disk: an index, the bases, and a folder for each model.

``zoo.json`` lists the models that count, those that failed their gate with the reason, and those
that are not built yet. ``badexpert.attacks.text.truth`` says what the folder of a model holds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from badexpert.errors import ConfigError
from badexpert.zoo.folder import INDEX
from badexpert.zoo.text.recipe import TextRecipe
from moe_core.files import write_text


@dataclass(frozen=True)
class TextRow:
    """A model in the index.

    Attributes:
        name: of the model, and of its folder.
        data, base, attack: their names in the recipe.
        clean_accuracy: on the test texts; None if there is no model.
        attack_success_rate: None for a benign model, or if there is no model.
        success_without: the higher attack success rate of both ablations of the experts that the
            attacker chose; None where it chose none.
        reason: why it is kept apart; empty if it counts.
    """

    name: str
    data: str
    base: str
    attack: str
    clean_accuracy: float | None = None
    attack_success_rate: float | None = None
    success_without: float | None = None
    reason: str = ""

    @property
    def made(self) -> bool:
        """Whether there is a model."""
        return self.clean_accuracy is not None


@dataclass(frozen=True)
class TextIndex:
    """What ``zoo.json`` says.

    Attributes:
        recipe: what the zoo is built from.
        models: those that count.
        apart: those that failed their gate or could not be made, each with its reason.
        missing: names of those that are not built yet.
    """

    recipe: TextRecipe
    models: tuple[TextRow, ...]
    apart: tuple[TextRow, ...]
    missing: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Replace the index of a zoo in one step."""
        write_text(folder / INDEX, json.dumps(asdict(self), indent=1) + "\n")


def read_text_index(folder: Path) -> TextIndex:
    """The index of a zoo of language models.

    Raises:
        ConfigError: it is missing, damaged, or of a zoo of other models.
    """
    path = folder / INDEX
    try:
        return TypeAdapter(TextIndex).validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} is no index of language models: {error}. Make it with badexpert zoo build"
        ) from error
