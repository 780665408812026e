"""Every setting of a scan with its default: frozen, checked on construction, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import ClassVar, Literal

from badexpert.findings import Json, Severity
from badexpert.preprocessing import PreprocessingOverrides
from badexpert.text_reading import SLOT

Copies = Literal["full", "low-rank"]
FULL: Copies = "full"
LOW_RANK: Copies = "low-rank"

FailOn = Literal["none", "low", "medium", "high", "critical"]


def _require(holds: bool, rule: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{rule}; got {got}")


def _require_named(source: str | None) -> None:
    """An empty path, such as a shell variable nobody set, would mean the current folder."""
    _require(source != "", "source must not be empty", repr(source))


@dataclass(frozen=True)
class TextConfig:
    """How texts are put to a language model; where nothing is said, model and data tell.

    Attributes:
        template: what the model is given; ``{text}`` stands for the text. None takes the model's
            chat template, or the text itself and the question for a label.
        label_words: by class index, of a language model that classifies; empty takes the names of
            the classes in the clean set.
        max_tokens: longer inputs lose the end of their text.
        max_new_tokens: of a response; None is as long as most clean responses.
    """

    template: str | None = None
    label_words: tuple[str, ...] = ()
    max_tokens: int = 512
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        valid = self.template is None or SLOT in self.template
        _require(valid, f"template must contain {SLOT}", repr(self.template))
        _require(self.max_tokens > 0, "max_tokens must be positive", self.max_tokens)
        new = self.max_new_tokens
        _require(new is None or new > 0, "max_new_tokens must be positive", new)


@dataclass(frozen=True)
class ModelConfig:
    """The suspect: where it is, and what its file does not say.

    Attributes:
        source: a file, a folder, or ``hf:ORG/NAME@REVISION``.
        arch: ``timm:NAME``, ``torchvision:NAME`` or ``python:package.module:factory``.
        arch_args: keyword arguments for the architecture's factory.
        num_classes: where the tensors do not tell.
        preprocessing: what replaces the model's own preprocessing.
        adapter: folder of a LoRA or MixLoRA adapter on a language model.
        text: how texts are put to a language model.
    """

    source: str | None = None
    arch: str | None = None
    arch_args: Mapping[str, Json] = field(default_factory=dict)
    num_classes: int | None = None
    preprocessing: PreprocessingOverrides = field(default_factory=PreprocessingOverrides)
    adapter: str | None = None
    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        _require_named(self.source)
        few = self.num_classes is not None and self.num_classes < 2
        _require(not few, "num_classes must be at least 2", self.num_classes)


@dataclass(frozen=True)
class CleanConfig:
    """The clean, labeled samples.

    Attributes:
        source: a folder, a file, ``sklearn:NAME`` or ``torchvision:NAME``.
        root: where ``torchvision:`` finds its files.
        limit: use at most that many samples, drawn evenly over the classes.
        class_index: the model's index of each class name, where it does not number the classes as
            the source does.
        calibration: share held out from tuning, to calibrate the threshold.
    """

    source: str | None = None
    root: str | None = None
    limit: int | None = None
    class_index: Mapping[str, int] = field(default_factory=dict)
    calibration: float = 0.5

    def __post_init__(self) -> None:
        _require_named(self.source)
        _require(0 < self.calibration < 1, "calibration must lie in (0, 1)", self.calibration)
        _require(self.limit is None or self.limit > 0, "limit must be positive", self.limit)


@dataclass(frozen=True)
class InputsConfig:
    """The unlabeled inputs to score.

    Attributes:
        source: a folder, a list of images, or whatever the clean samples may come from.
    """

    source: str | None = None

    def __post_init__(self) -> None:
        _require_named(self.source)


@dataclass(frozen=True)
class PaperConfig:
    """The settings that the paper's authors give by hand, per data set and architecture.

    Attributes:
        expert_lr: of Adam, for the backdoor expert.
        expert_epochs: passes over the mislabeled samples.
        expert_batch_size: samples a step.
        auxiliary_lr: of SGD at the start.
        auxiliary_decay: factor at epochs 2, 4, 6 and 8.
        auxiliary_epochs: passes over the clean samples.
        auxiliary_batch_size: samples a step.
        slope: of the decision boundary.
        crop: pixels of padding for random crops.
        flip: mirror half of the images.
    """

    expert_lr: float = 1e-4
    expert_epochs: int = 1
    expert_batch_size: int = 128
    auxiliary_lr: float = 0.1
    auxiliary_decay: float = 0.1
    auxiliary_epochs: int = 10
    auxiliary_batch_size: int = 64
    slope: float = 0.5
    crop: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        for name in ("expert_lr", "auxiliary_lr", "auxiliary_decay", "slope"):
            value = getattr(self, name)
            _require(value > 0, f"{name} must be positive", value)
        for name in (
            "expert_epochs",
            "expert_batch_size",
            "auxiliary_epochs",
            "auxiliary_batch_size",
        ):
            value = getattr(self, name)
            _require(value > 0, f"{name} must be positive", value)
        _require(self.crop >= 0, "crop must not be negative", self.crop)


@dataclass(frozen=True)
class ExtractionConfig:
    """How the backdoor expert and the auxiliary are tuned.

    Attributes:
        method: ``adaptive`` finds every setting from the clean samples; ``paper`` uses the
            authors' settings and tunes full copies.
        tail_share: tune at most this share of the network's operations, counted from its end, and
            share the rest; 1 tunes full copies; None chooses by what the network is made of.
        copies: of a language model: ``full`` ones, or the one model with ``low-rank`` updates,
            which take little more memory than it alone; None takes full ones where they fit.
        watch: share of the tuning samples that are not tuned on but watched.
        paper: used by ``method = "paper"`` alone.
    """

    method: Literal["adaptive", "paper"] = "adaptive"
    tail_share: float | None = None
    copies: Copies | None = None
    watch: float = 0.25
    paper: PaperConfig = field(default_factory=PaperConfig)

    def __post_init__(self) -> None:
        valid = self.tail_share is None or 0 < self.tail_share <= 1
        _require(valid, "tail_share must lie in (0, 1]", self.tail_share)
        _require(0 < self.watch < 1, "watch must lie in (0, 1)", self.watch)


@dataclass(frozen=True)
class DetectionConfig:
    """How inputs are judged.

    Attributes:
        detector: how the suspect and its tuned copies are compared.
        fpr: the share of clean inputs that may be flagged.
        batch_size: inputs a pass.
        workers: processes that read images; 0 reads in the main one.
    """

    detector: str = "badexpert"
    fpr: float = 0.01
    batch_size: int = 128
    workers: int = 0

    def __post_init__(self) -> None:
        _require(0 < self.fpr < 1, "fpr must lie in (0, 1)", self.fpr)
        _require(self.batch_size > 0, "batch_size must be positive", self.batch_size)
        _require(self.workers >= 0, "workers must not be negative", self.workers)


@dataclass(frozen=True)
class ReportConfig:
    """What is written, and when a scan counts as failed.

    Attributes:
        fail_on: the least severity that fails the run; independent of what is shown.
        allow_inconclusive: an inconclusive verdict is no failure.
        exit_zero: only report; findings and verdict do not fail the run.
        formats: ``NAME`` for standard output or ``NAME=PATH`` for a file, any number of them.
    """

    fail_on: FailOn = "medium"
    allow_inconclusive: bool = False
    exit_zero: bool = False
    formats: tuple[str, ...] = ("text",)

    @property
    def gate(self) -> Severity | None:
        """The least severity that fails the run; None when nothing does."""
        return None if self.fail_on == "none" else Severity[self.fail_on.upper()]


@dataclass(frozen=True)
class IgnoreEntry:
    """A finding that its owner has accepted.

    Attributes:
        id: of the rule.
        statement: why it is accepted; stands in every report.
        path: glob over the suspect's path, or over the finding's subject.
        expires: the last day on which the entry holds; None holds for ever.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    id: str
    statement: str
    path: str = "*"
    expires: date | None = None

    def __post_init__(self) -> None:
        _require(bool(self.statement.strip()), "statement must say why", repr(self.statement))


@dataclass(frozen=True)
class ScanConfig:
    """All settings of one run.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: the root of all randomness.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    ignore: tuple[IgnoreEntry, ...] = ()
    device: str = "auto"
    seed: int = 0
