"""The whole job on a tiny backdoored model: verdict, exit code, documents."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from badexpert.report.json import schema
from tests.e2e.conftest import Workplace

SARIF_SCHEMA = Path(__file__).parents[1] / "golden" / "sarif-schema-2.1.0.json"


def test_without_inputs_nothing_decides(victim: Workplace) -> None:
    outcome = victim.badexpert("scan", *victim.backdoored)
    assert outcome.code == 3, outcome.stderr
    assert outcome.stdout.startswith("Verdict: inconclusive\n")
    for words in (
        "shifted",
        "250 held-out clean samples",
        "no inputs were given",
        "call none clean",
    ):
        assert words in " ".join(outcome.stdout.split())


def test_an_open_verdict_can_be_allowed(victim: Workplace) -> None:
    arguments = ("--inputs", "held-out.npz", "--allow-inconclusive", "-f", "json")
    outcome = victim.badexpert("scan", *victim.backdoored, *arguments)
    assert outcome.code == 0, outcome.stderr
    document = json.loads(outcome.stdout)
    jsonschema.validate(document, schema())
    assert document["verdict"] == "inconclusive"
    assert document["complete"]
    assert document["inputs"]["scored"] == 397
    assert document["inputs"]["flagged"] <= 12


def test_triggered_inputs_fail_the_gate_in_every_format(victim: Workplace, tmp_path: Path) -> None:
    sarif, plain = tmp_path / "audit.sarif", tmp_path / "audit.json"
    outcome = victim.badexpert(
        *("scan", *victim.backdoored, "--inputs", "triggered"),
        *("-f", "text", "-f", f"sarif={sarif}", "-f", f"json={plain}"),
    )
    assert outcome.code == 1, outcome.stderr
    assert outcome.stdout.startswith("Verdict: backdoored\n")
    document = json.loads(plain.read_text(encoding="utf-8"))
    jsonschema.validate(document, schema())
    assert document["verdict"] == "backdoored"
    assert document["findings"][0]["subject"] == "class 0"
    assert document["findings"][0]["p_value"] < 1e-4
    log = json.loads(sarif.read_text(encoding="utf-8"))
    jsonschema.validate(log, json.loads(SARIF_SCHEMA.read_text(encoding="utf-8")))
    [run] = log["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["BX201"]
    assert run["results"][0]["level"] == "error"
    assert run["invocations"][0]["executionSuccessful"]
