"""Every configuration that ships is valid and says what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from badexpert.settings import resolve

FILES = sorted((Path(__file__).parents[2] / "configs").rglob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    outcome = resolve({}, environment={}, folder=path.parent, file=path)
    assert str(path) in outcome.origins.values()
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_strict_policy_lets_nothing_through() -> None:
    [path] = [path for path in FILES if path.stem == "policy-strict"]
    report = resolve({}, environment={}, folder=path.parent, file=path).config.report
    assert (report.fail_on, report.allow_inconclusive, report.exit_zero) == ("low", False, False)
