"""What is known about an extraction, but its weights: JSON beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from badexpert.config import FULL, Copies, ExtractionConfig
from badexpert.describe import versions
from badexpert.errors import ModelLoadError
from badexpert.extraction.watch import Beat
from badexpert.preprocessing import Preprocessing
from badexpert.split import Cut
from badexpert.suspect import Suspect
from badexpert.text_reading import TextReading

RECORD = "bundle.json"


@dataclass(frozen=True)
class Scale:
    """Where a signal lies on clean samples that were held out.

    Attributes:
        center: the median.
        above: from the median up to the 95th percentile.
        below: from the median down to the lowest; triggers seldom lie there, so only what lies
            beyond all of them counts. None where nothing that is low counts.
    """

    center: float
    above: float
    below: float | None

    @classmethod
    def of(cls, values: Tensor, *, low_counts: bool = True) -> Scale:
        """Measure (samples,) values."""
        low, middle, high = values.double().quantile(
            torch.tensor([0.0, 0.5, 0.95], dtype=torch.float64)
        )
        above, below = max(float(high - middle), 1e-6), max(float(middle - low), 1e-6)
        return cls(float(middle), above, below if low_counts else None)

    def apply(self, values: Tensor) -> Tensor:
        """How far above the median, or below the lowest, in units of that tail; never negative."""
        distance = values - self.center
        above = (distance / self.above).clamp_min(0)
        return above if self.below is None else above + (-distance / self.below - 1).clamp_min(0)


@dataclass(frozen=True)
class Record:
    """Everything about a bundle but its weights.

    Attributes:
        suspect: digest of the model that it was extracted from.
        source: of that model, as the user gave it.
        arch_args: what its architecture was built with.
        preprocessing: that it was extracted with.
        num_classes: of that model; None where it writes responses.
        cut: where the network was cut.
        copies: whether each tuned copy has weights of its own, or all have those of the suspect
            and low-rank updates of their own.
        settings: of the extraction.
        seed: of the run.
        clean_digest: of the clean samples that were tuned on.
        samples: how many samples were tuned on, and how many watched.
        clean_accuracy: of the suspect and each tuned copy on the watched samples.
        scales: of the suspicion from each tuned copy, and from the distance to clean samples, on
            the watched samples.
        trajectories: of each expert's tuning, and the learning rates tried for the auxiliary.
        notes: what went otherwise than planned.
        versions: of the tool and of what computed it.
        calibration: scores of held-out clean samples, by detector.
        weights: sha256 of the file of tuned weights; empty until the bundle is written.
        format: of this record.
    """

    suspect: str
    source: str
    architecture: str
    arch_args: dict[str, Any]
    preprocessing: Preprocessing | TextReading
    num_classes: int | None
    cut: Cut
    settings: ExtractionConfig
    seed: int
    clean_digest: str
    samples: dict[str, int]
    clean_accuracy: dict[str, float]
    scales: dict[str, Scale]
    trajectories: dict[str, tuple[Beat, ...]]
    notes: tuple[str, ...]
    versions: dict[str, str]
    copies: Copies = FULL
    calibration: dict[str, tuple[float, ...]] = field(default_factory=dict)
    weights: str = ""
    format: Literal[1] = 1

    @classmethod
    def of(cls, suspect: Suspect, **measured: Any) -> Self:
        """A record of an extraction from this suspect, with this software.

        Args:
            measured: the fields that neither the suspect nor the software knows.
        """
        return cls(
            suspect=suspect.origin.sha256,
            source=suspect.origin.source,
            architecture=suspect.origin.architecture,
            arch_args=dict(suspect.origin.arch_args),
            preprocessing=suspect.preprocessing,
            num_classes=suspect.num_classes,
            versions=dict(versions()),
            **measured,
        )

    def to_json(self) -> str:
        """As ``read_record`` reads it."""
        return json.dumps(_RECORDS.dump_python(self, mode="json"), indent=1) + "\n"


_RECORDS: TypeAdapter[Record] = TypeAdapter(Record)


def read_record(folder: Path) -> Record:
    """The record of a bundle, without its weights.

    Raises:
        ModelLoadError: there is none, or it is damaged.
    """
    path = folder / RECORD
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(
            f"{folder} holds no bundle ({error.strerror}: {RECORD}). Give the folder that "
            "'badexpert extract' wrote"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelLoadError(
            f"{path} is damaged or from another version ({place}: {first['msg']}). Extract again"
        ) from error
