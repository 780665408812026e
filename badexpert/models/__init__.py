"""Models under audit."""

from badexpert.models.origin import ModelFile, Origin
from badexpert.models.vision import VisionSuspect

__all__ = ["ModelFile", "Origin", "VisionSuspect"]
