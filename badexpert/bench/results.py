"""A folder of results: what was to be measured, and what was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from badexpert.bench.cells import Cell, Place, read_cell
from badexpert.errors import ConfigError

INDEX, CELLS = "bench.json", "cells"


@dataclass(frozen=True)
class Planned:
    """A cell that is asked for; a file with another digest is not it."""

    place: Place
    digest: str


@dataclass(frozen=True)
class Index:
    """What a benchmark set out to measure.

    Attributes:
        detectors: in the order of the recipe.
        clean_sizes: the same.
        fpr: that the thresholds promise.
        tested: clean images that are judged.
        planned: all cells.
        apart: models that were left out, with the reason.
        unbuilt: how many models of the zoo's recipe are not there.
    """

    detectors: tuple[str, ...]
    clean_sizes: tuple[int, ...]
    fpr: float
    tested: int
    planned: tuple[Planned, ...]
    apart: Mapping[str, str]
    unbuilt: int

    def write(self, folder: Path) -> None:
        """Make the folder ready for cells, and say which there will be.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            (folder / CELLS).mkdir(parents=True, exist_ok=True)
            draft = folder / f".{INDEX}.part"
            draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
            draft.replace(folder / INDEX)
        except OSError as error:
            raise ConfigError(f"folder {folder} cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
        cells: those that were tried, in the order of the grid.
        missing: places that were not reached, or whose cells are out of date.
    """

    index: Index
    cells: tuple[Cell, ...]
    missing: tuple[Place, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder, finished or not.

        Raises:
            ConfigError: there are no results, or they are damaged.
        """
        path = folder / INDEX
        try:
            index = TypeAdapter(Index).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"{folder} holds no results of a benchmark: {error}. Make them with badexpert bench"
            ) from error
        found = {
            wanted: cell
            for wanted in index.planned
            if (file := folder / CELLS / wanted.place.file).is_file()
            and (cell := read_cell(file)).digest == wanted.digest
        }
        missing = tuple(wanted.place for wanted in index.planned if wanted not in found)
        return cls(index, tuple(found.values()), missing)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """Cells that could not be measured."""
        return tuple(cell for cell in self.cells if cell.error is not None)
