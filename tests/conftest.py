"""Nothing is left out silently: the summary counts deselected tests by marker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

COUNTED = ("slow", "gpu")
_deselected: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        counts = item.config.stash.setdefault(_deselected, Counter())
        counts.update(mark for mark in COUNTED if item.get_closest_marker(mark))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = config.stash.get(_deselected, Counter())
    for mark in COUNTED:
        if counts[mark]:
            terminalreporter.write_line(
                f"deselected: {counts[mark]} marked {mark}; run them with -m {mark}"
            )
