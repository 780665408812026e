"""The JSON document, described by ``schema/report-1.0.json``."""

from __future__ import annotations

import json
from importlib.resources import files

from badexpert.findings import Json, Report
from badexpert.report.plain import plain


def render(report: Report) -> str:
    """The whole report; only ``clock`` differs between two runs with the same seed."""
    return json.dumps(plain(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> Json:
    """The JSON Schema that every document validates against."""
    text = files("badexpert.report").joinpath("schema/report-1.0.json").read_text(encoding="utf-8")
    return json.loads(text)
