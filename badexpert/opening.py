"""From a configuration to the objects it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from badexpert.cleanset import CleanSet
from badexpert.config import ModelConfig, ScanConfig
from badexpert.detection import InputSource
from badexpert.errors import ConfigError, UnsafeModelError
from badexpert.extraction import Bundle
from badexpert.extraction.record import read_record
from badexpert.findings import Report
from badexpert.inspection_report import refusal_report
from badexpert.loading import load_suspect
from badexpert.loading.language import is_language_model, load_language_model
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.models.vision import VisionSuspect
from badexpert.opening_texts import open_language_suspect
from badexpert.preprocessing import PreprocessingOverrides
from badexpert.runtime import RunContext
from badexpert.sources import open_source
from badexpert.sources.texts import open_texts
from badexpert.suspect import Suspect
from badexpert.text_reading import TextReading
from badexpert.textset import CleanSamples


class Opened(NamedTuple):
    """What an audit is about.

    Attributes:
        clean: None where the configuration names no clean samples.
    """

    suspect: Suspect
    clean: CleanSamples | None


def open_subjects(config: ScanConfig, context: RunContext) -> Opened:
    """The model and the clean samples that the configuration names, of whatever kind they are.

    Raises:
        ConfigError: it names no model, or does not say what a language model is used for.
        ModelLoadError: see ``load_suspect`` and ``load_language_model``.
        CleanSetError: see ``CleanSet.open`` and ``TextCleanSet.open``.
    """
    model = config.model
    if model.source is not None and model.arch is None and is_language_model(model.source):
        return Opened(*open_language_suspect(config, context))
    suspect = open_suspect(model, context)
    return Opened(suspect, open_clean_set(config, suspect) if config.clean.source else None)


def required_clean(clean: CleanSamples | None) -> CleanSamples:
    """The clean samples that a command cannot do without.

    Raises:
        ConfigError: there are none.
    """
    if clean is None:
        raise ConfigError("no clean samples were given; say --clean, or set clean.source")
    return clean


def open_suspect(model: ModelConfig, context: RunContext) -> VisionSuspect:
    """The image classifier that the configuration names.

    Raises:
        ConfigError: it names none.
        ModelLoadError: see ``load_suspect``.
    """
    if model.source is None:
        raise ConfigError("no model was given; name one on the command line or in model.source")
    return load_suspect(
        model.source,
        arch=model.arch,
        arch_args=model.arch_args,
        num_classes=model.num_classes,
        preprocessing=model.preprocessing,
        device=context.device,
    )


def open_clean_set(config: ScanConfig, suspect: VisionSuspect) -> CleanSet:
    """The clean set that the configuration names, in the shape that the suspect takes.

    Raises:
        ConfigError: it names none.
        CleanSetError: see ``CleanSet.open``.
    """
    clean = config.clean
    if clean.source is None:
        raise ConfigError("no clean samples were given; say --clean, or set clean.source")
    return CleanSet.open(
        clean.source,
        suspect.preprocessing,
        num_classes=suspect.num_classes,
        root=clean.root,
        limit=clean.limit,
        seed=config.seed,
        class_index=clean.class_index or None,
    )


def open_inputs(config: ScanConfig, suspect: Suspect) -> InputSource | None:
    """The inputs to score that the configuration names, if it names any.

    Raises:
        CleanSetError: see ``open_source`` and ``open_texts``.
    """
    if config.inputs.source is None:
        return None
    texts = isinstance(suspect, TextSuspect)
    return open_texts(config.inputs.source) if texts else open_source(config.inputs.source)


def open_bundle(folder: Path, config: ScanConfig, context: RunContext) -> Bundle:
    """A bundle joined with its suspect, which is read from where it was extracted from.

    What the configuration says about the model goes before what the bundle remembers, for a model
    that has moved.

    Raises:
        ConfigError: the bundle names code to run, which only the user may name.
        ModelLoadError: no bundle, or not of this suspect.
    """
    record = read_record(folder)
    model = config.model
    if model.arch is None and record.architecture.startswith("python:"):
        raise ConfigError(
            f"{folder} was extracted from an architecture in code of yours, {record.architecture}; "
            f"a bundle may not choose code to run. Say --arch {record.architecture}"
        )
    plan = record.preprocessing
    if isinstance(plan, TextReading):
        language_model = load_language_model(
            model.source or record.source,
            adapter=model.adapter or record.arch_args.get("adapter"),
            device=context.device,
        )
        return Bundle.load(folder, suspect_of(language_model, plan))
    suspect = load_suspect(
        model.source or record.source,
        arch=model.arch or record.architecture,
        arch_args=model.arch_args or record.arch_args,
        num_classes=record.num_classes,
        preprocessing=PreprocessingOverrides(**asdict(plan)),
        device=context.device,
    )
    return Bundle.load(folder, suspect)


def audited(
    command: str,
    config: ScanConfig,
    context: RunContext,
    audit: Callable[[Suspect, CleanSamples | None], Report],
) -> Report:
    """Open the suspect and audit it; a file refused as unsafe is a finding, not an error."""
    try:
        opened = open_subjects(config, context)
    except UnsafeModelError as error:
        return refusal_report(command, str(config.model.source), error, config=config)
    return audit(*opened)
