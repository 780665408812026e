"""Every document validates against the schema of its format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from badexpert.findings import Finding, Report, Severity, Verdict
from badexpert.report import FORMATS
from badexpert.report.json import schema
from badexpert.rules import RULES
from tests.reports import full_report

SARIF_SCHEMA = json.loads(
    (Path(__file__).parent / "sarif-schema-2.1.0.json").read_text(encoding="utf-8")
)
VALIDATORS = {
    "json": jsonschema.Draft202012Validator(
        schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ),
    "sarif": jsonschema.Draft4Validator(
        SARIF_SCHEMA, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER
    ),
}
REPORTS = {
    "everything": full_report(),
    "nothing found": full_report(
        findings=(),
        audits=(),
        inputs=None,
        suppressed=(),
        complete=True,
        verdict=Verdict.CLEAN,
        clean_set={},
        suspect={"path": "hf:org/name@abc"},
    ),
    "every rule": full_report(
        findings=tuple(Finding(rule, Severity.CRITICAL, "message") for rule in RULES)
    ),
}


def test_every_format_has_a_schema_here() -> None:
    assert FORMATS.keys() == VALIDATORS.keys()


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_documents_are_valid(name: str, report: Report) -> None:
    VALIDATORS[name].validate(json.loads(FORMATS[name](report)))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda document: document.pop("verdict"),
        lambda document: document.update(verdict="fine"),
        lambda document: document.update(unknown=1),
        lambda document: document["findings"][0].update(severity=3),
        lambda document: document["findings"][0].update(p_value=1.5),
        lambda document: document["suppressed"][0].update(statement=""),
        lambda document: document["suspect"].update(sha256="short"),
    ],
)
def test_the_json_schema_refuses_broken_documents(break_it: Any) -> None:
    document = json.loads(FORMATS["json"](full_report()))
    break_it(document)
    assert not VALIDATORS["json"].is_valid(document)
