"""What a benchmark compares: read from TOML, checked, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from badexpert.config import ExtractionConfig
from badexpert.detectors import DETECTORS, PaperBaDExpert
from badexpert.settings import resolve
from badexpert.toml_file import checked, read_toml


@dataclass(frozen=True)
class Settings:
    """Extraction settings of a detector, where they are not its own.

    Attributes:
        detector: key in ``DETECTORS``.
        config: a configuration file, of which ``extraction`` counts; relative to the recipe.
        data: holds for models of this data set only.
        architecture: holds for models of this architecture only, by its name in the zoo.
    """

    detector: str
    config: Path
    data: str | None = None
    architecture: str | None = None


@dataclass(frozen=True)
class BenchRecipe:
    """A grid: every model of a zoo, by detector, by number of clean images, by seed.

    Attributes:
        zoo: folder of a zoo, or the recipe of one, relative to this recipe.
        detectors: keys in ``DETECTORS``.
        clean_sizes: clean images that the defender has, for tuning and calibration together.
        seeds: of the choice of clean images and of the extraction.
        fpr: that the thresholds promise.
        tested: clean images to be judged; never among those that the defender has.
        data: where the test images of a data set come from, by its name in the zoo.
        settings: the first that holds for a model is used.
        factories: ``python:`` architectures of the user's own that models of the zoo may name.
    """

    zoo: Path
    detectors: tuple[str, ...]
    clean_sizes: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    fpr: float = 0.01
    tested: int = 3000
    data: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[Settings, ...] = ()
    factories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("detectors", "clean_sizes", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must hold something, and nothing twice; got {values}")
        named = (*self.detectors, *(entry.detector for entry in self.settings))
        if unknown := [name for name in named if name not in DETECTORS]:
            raise ValueError(f"no detector {unknown[0]!r}; known are {', '.join(DETECTORS)}")
        if not 0 < self.fpr < 1:
            raise ValueError(f"fpr must lie in (0, 1); got {self.fpr}")
        if self.tested < 1:
            raise ValueError(f"tested must be positive; got {self.tested}")

    def extraction(self, detector: str, data: str, architecture: str) -> ExtractionConfig:
        """How this detector's tuned copies are made for a model.

        Raises:
            ConfigError: see ``settings.resolve``.
        """
        for entry in self.settings:
            if (
                entry.detector == detector
                and entry.data in (None, data)
                and entry.architecture in (None, architecture)
            ):
                folder = entry.config.parent
                return resolve(
                    {}, environment={}, folder=folder, file=entry.config
                ).config.extraction
        as_published = detector == PaperBaDExpert.name
        return ExtractionConfig(method="paper") if as_published else ExtractionConfig()


def read_recipe(path: Path) -> BenchRecipe:
    """A recipe whose paths are resolved.

    Raises:
        ConfigError: it cannot be read, a key is unknown, a value is invalid.
    """
    recipe = checked(BenchRecipe, read_toml(path, "recipe"), f"recipe {path}")
    recipe = replace(
        recipe,
        zoo=path.parent / recipe.zoo,
        settings=tuple(
            replace(entry, config=path.parent / entry.config) for entry in recipe.settings
        ),
    )
    _check_settings(recipe)
    return recipe


def _check_settings(recipe: BenchRecipe) -> None:
    """A bad file is refused now, not when its model is reached."""
    for entry in recipe.settings:
        resolve({}, environment={}, folder=entry.config.parent, file=entry.config)
