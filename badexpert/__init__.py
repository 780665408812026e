"""Find out whether a model hides a backdoor.

Everything public is here by name. A name is imported when it is first asked for, so that importing
this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from badexpert.cleanset import CleanSet
    from badexpert.config import DetectionConfig, ExtractionConfig, ScanConfig
    from badexpert.detection import detect, prepare, stored_detector
    from badexpert.detectors import DETECTORS, BaDExpert, Detector, KnockOut, PaperBaDExpert
    from badexpert.errors import (
        AuditError,
        BadExpertError,
        CleanSetError,
        ConfigError,
        ModelLoadError,
        UnsafeModelError,
    )
    from badexpert.extraction import Bundle, extract
    from badexpert.findings import Finding, Report, Severity, Verdict
    from badexpert.guard import Guard
    from badexpert.loading import load_suspect
    from badexpert.loading.language import load_language_model
    from badexpert.models.language import GenerationSuspect, TextSuspect, suspect_of
    from badexpert.models.vision import VisionSuspect
    from badexpert.preprocessing import Preprocessing, PreprocessingOverrides
    from badexpert.repairing import Repair, Triggered, repair
    from badexpert.runtime import RunContext
    from badexpert.scanning import scan
    from badexpert.sources import open_source
    from badexpert.sources.texts import open_texts
    from badexpert.text_reading import TextReading
    from badexpert.textset import TextCleanSet

    __version__: str

_HOMES = {
    "DETECTORS": "detectors",
    "AuditError": "errors",
    "BaDExpert": "detectors",
    "BadExpertError": "errors",
    "Bundle": "extraction",
    "CleanSet": "cleanset",
    "CleanSetError": "errors",
    "ConfigError": "errors",
    "DetectionConfig": "config",
    "Detector": "detectors",
    "ExtractionConfig": "config",
    "Finding": "findings",
    "GenerationSuspect": "models.language",
    "Guard": "guard",
    "KnockOut": "detectors",
    "ModelLoadError": "errors",
    "PaperBaDExpert": "detectors",
    "Preprocessing": "preprocessing",
    "PreprocessingOverrides": "preprocessing",
    "Repair": "repairing",
    "Report": "findings",
    "RunContext": "runtime",
    "ScanConfig": "config",
    "Severity": "findings",
    "TextCleanSet": "textset",
    "TextReading": "text_reading",
    "TextSuspect": "models.language",
    "Triggered": "repairing",
    "UnsafeModelError": "errors",
    "Verdict": "findings",
    "VisionSuspect": "models.vision",
    "detect": "detection",
    "extract": "extraction",
    "load_language_model": "loading.language",
    "load_suspect": "loading",
    "open_source": "sources",
    "open_texts": "sources.texts",
    "prepare": "detection",
    "repair": "repairing",
    "scan": "scanning",
    "stored_detector": "detection",
    "suspect_of": "models.language",
}

__all__ = [
    "DETECTORS",
    "AuditError",
    "BaDExpert",
    "BadExpertError",
    "Bundle",
    "CleanSet",
    "CleanSetError",
    "ConfigError",
    "DetectionConfig",
    "Detector",
    "ExtractionConfig",
    "Finding",
    "GenerationSuspect",
    "Guard",
    "KnockOut",
    "ModelLoadError",
    "PaperBaDExpert",
    "Preprocessing",
    "PreprocessingOverrides",
    "Repair",
    "Report",
    "RunContext",
    "ScanConfig",
    "Severity",
    "TextCleanSet",
    "TextReading",
    "TextSuspect",
    "Triggered",
    "UnsafeModelError",
    "Verdict",
    "VisionSuspect",
    "__version__",
    "detect",
    "extract",
    "load_language_model",
    "load_suspect",
    "open_source",
    "open_texts",
    "prepare",
    "repair",
    "scan",
    "stored_detector",
    "suspect_of",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("badexpert.version").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"badexpert.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
