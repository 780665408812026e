from __future__ import annotations

import math

import pytest

from badexpert.findings import Severity
from badexpert.rules import RULES
from tests.reports import flagged_finding

# The identifiers that were checked against the published lists; see the project's conventions.
CHECKED = {
    "CWE-502", "CWE-506", "CWE-510", "CWE-22", "CWE-409",
    "AML.T0018", "AML.T0018.000", "AML.T0018.001", "AML.T0018.002",
    "AML.T0020", "AML.T0043.004", "AML.T0011.000", "AML.T0010",
}  # fmt: skip


@pytest.mark.parametrize("name", ["score", "threshold", "p_value"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_finding_rests_on_finite_numbers(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} of a finding must be finite"):
        flagged_finding(**{name: value})


def test_severities_are_ordered() -> None:
    assert Severity.LOW < Severity.MEDIUM < Severity.HIGH < Severity.CRITICAL


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_explains_itself_and_cites_checked_taxonomies(rule) -> None:
    assert RULES[rule.id] is rule
    assert len(rule.help) > len(rule.title) > 20
    assert rule.name.isidentifier()
    assert set(rule.taxonomy) <= CHECKED
