"""Extract the backdoor functionality: fine-tune on deliberately mislabeled clean samples."""

from badexpert.extraction.bundle import Bundle
from badexpert.extraction.comparison import Views
from badexpert.extraction.extract import extract

__all__ = ["Bundle", "Views", "extract"]
