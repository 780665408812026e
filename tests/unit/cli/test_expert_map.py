from __future__ import annotations

from typing import Any

import pytest

from badexpert.findings import AuditState, AuditStatus
from badexpert_cli.text import report_content, to_string
from tests.reports import full_report

EVIDENCE: dict[str, Any] = {
    "layers": ["layers.0.mlp", "layers.1.mlp"],
    "usage": [[0.5, 0.25, 0.0], [0.1, 0.2, 0.45]],
    "classes": [
        {"target": 0, "aim": "class 0", "words": "cf", "success": 0.1, "verdict": "none found"},
        {
            "target": 1,
            "aim": "the response 'no\x1b[2J'",
            "words": "\x1b[2Jqx",
            "success": 0.9,
            "verdict": "expert-local",
            "loss": 0.9,
            "loss_without_others": 0.02,
            "loss_without_each_expert": [[0.0, 0.02, -0.1], [0.9, 0.0, 0.45]],
        },
    ],
}


def shown(evidence: dict[str, Any]) -> str:
    status = AuditStatus("experts", AuditState.DONE, summary="expert-local", evidence=evidence)
    return to_string(report_content(full_report(audits=(status,))), terminal=False)


def test_experts_are_shaded_by_what_the_trigger_loses_without_them() -> None:
    lines = shown(EVIDENCE).splitlines()
    [usage, loss] = [line for line in lines if "layers.1.mlp" in line]
    assert "█" in usage
    assert "█ ▒" in loss
    assert "1.00 at expert 0" in loss


@pytest.mark.parametrize(("experts", "marks", "each"), [(8, 8, 1), (64, 64, 1), (256, 64, 4)])
def test_a_layer_is_one_line_however_many_experts_it_has(
    experts: int, marks: int, each: int
) -> None:
    usage = [[0.0] * (experts - 1) + [1.0], [0.5] + [0.0] * (experts - 1)]
    text = shown({**EVIDENCE, "usage": usage, "classes": []})
    [first, second] = [line for line in text.splitlines() if ".mlp" in line]
    assert first.index("█") - second.index("▒") == marks - 1
    assert f"1.00 at expert {experts - 1}" in first
    assert (f"{each} experts a mark" in text) is (each > 1)


def test_classes_stand_with_words_numbers_and_verdict() -> None:
    text = shown(EVIDENCE)
    assert "expert-local" in text
    assert "class 0" in text
    assert "the response 'no" in text
    assert "0.02" in text
    assert "\x1b" not in text
    assert text.count("loses without each expert") == 1


def test_an_audit_that_was_skipped_has_no_map() -> None:
    assert "usage on clean texts" not in to_string(report_content(full_report()), terminal=False)
