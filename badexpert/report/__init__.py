"""Reports as documents: one file a format, each a pure function from Report to text.

To add a format: one module here, one line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable

from badexpert.findings import Report
from badexpert.report import json, sarif

FORMATS: dict[str, Callable[[Report], str]] = {
    "json": json.render,
    "sarif": sarif.render,
}

__all__ = ["FORMATS"]
