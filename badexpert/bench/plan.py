"""All cells of a grid before anything is measured, each with the digest of what decides it."""

from __future__ import annotations

import ast
import hashlib
import inspect
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch

import badexpert.extraction
from badexpert import batchnorm, conformal, split, strata, taps
from badexpert.attacks.truth import read_truth
from badexpert.bench.cells import Place, digest_of
from badexpert.bench.recipe import BenchRecipe
from badexpert.bench.results import Index, Planned
from badexpert.bench.subjects import Subject, subjects_of
from badexpert.cleanset import CleanSet
from badexpert.config import ExtractionConfig
from badexpert.detectors import DETECTORS, Detector
from badexpert.errors import ConfigError
from badexpert.runtime import RunContext
from badexpert.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Job:
    """A cell to be measured.

    Attributes:
        extraction: how tuned copies are made, if the detector looks at any.
        digest: of all that decides the outcome.
    """

    place: Place
    subject: Subject
    extraction: ExtractionConfig
    digest: str


def plan(recipe: BenchRecipe, zoo: Zoo, context: RunContext) -> tuple[Index, tuple[Job, ...]]:
    """Everything that a recipe asks for, a model at a time.

    Raises:
        CleanSetError: the test images are missing.
        ConfigError: the zoo has no models that count, too few test images for the recipe, or not
            the data sets that the recipe names.
        ModelLoadError: the truth of a model is missing or damaged.
    """
    subjects, apart = subjects_of(recipe, zoo)
    if not subjects:
        raise ConfigError(
            f"{zoo.path} has no models that count, {len(apart)} that are kept apart, and "
            f"{len(zoo.index.missing)} that are not built yet. Build it first"
        )
    jobs = tuple(
        _job(subject, detector, size, seed, recipe, context)
        for subject, seed, size, detector in product(
            subjects, recipe.seeds, recipe.clean_sizes, recipe.detectors
        )
    )
    index = Index(
        detectors=recipe.detectors,
        clean_sizes=recipe.clean_sizes,
        fpr=recipe.fpr,
        tested=recipe.tested,
        planned=tuple(Planned(job.place, job.digest) for job in jobs),
        apart=apart,
        unbuilt=len(zoo.index.missing),
    )
    return index, jobs


def _job(
    subject: Subject,
    detector: str,
    size: int,
    seed: int,
    recipe: BenchRecipe,
    context: RunContext,
) -> Job:
    row, kind = subject.model.row, DETECTORS[detector]
    place = Place(
        model=row.name,
        data=row.data,
        architecture=row.architecture,
        attack=subject.attack_name,
        benign=subject.benign,
        model_seed=subject.model_seed,
        detector=detector,
        clean_size=size,
        seed=seed,
    )
    truth, trigger = subject.model.truth, read_truth(subject.trigger)
    extraction = recipe.extraction(detector, row.data, row.architecture)
    digest = digest_of(
        {
            "model": truth.sha256,
            "preprocessing": asdict(truth.preprocessing),
            "attack": trigger.attack,
            "parameters": dict(trigger.parameters),
            "trigger": trigger.trigger_sha256,
            "images": _digest_of_images(subject.test),
            "extraction": asdict(extraction) if kind.parts else None,
            "code": code_of(kind),
            "place": asdict(place),
            "fpr": recipe.fpr,
            "tested": recipe.tested,
            "device": context.device.type,
            "torch": torch.__version__,
        }
    )
    return Job(place, subject, extraction, digest)


@cache
def _digest_of_images(images: CleanSet) -> str:
    return images.digest()


@cache
def code_of(kind: type[Detector]) -> str:
    """sha256 of the code that makes a detector's score and its threshold: its module, calibration,
    and extraction if it needs any.

    Numbers of an older method must not stand beside those of a newer one. What is said about the
    code, in comments and docstrings, does not count.
    """
    files = [Path(inspect.getfile(code)) for code in (kind, conformal, strata)]
    if kind.parts:
        files += [Path(inspect.getfile(code)) for code in (split, batchnorm, taps)]
        files += sorted(Path(inspect.getfile(badexpert.extraction)).parent.glob("*.py"))
    return hashlib.sha256("".join(map(_without_words, files)).encode()).hexdigest()


def _without_words(path: Path) -> str:
    """Source without comments and docstrings."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)]
    return ast.unparse(tree)


def _is_text(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )
