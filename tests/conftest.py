"""Nothing is left out silently: the summary counts deselected tests by marker.

It also counts the tests of Triton programs, which run in a process of their own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import pytest

# Before torch is imported, and inherited by the commands that tests run. On networks as small as
# the tests' a second thread gains nothing, and on a busy machine the two wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

COUNTED = ("slow", "gpu")
_deselected: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        counts = item.config.stash.setdefault(_deselected, Counter())
        counts.update(mark for mark in COUNTED if item.get_closest_marker(mark))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "interpreted":
                terminalreporter.write_line(f"in Triton's interpreter: {value} passed")
    counts = config.stash.get(_deselected, Counter())
    for mark in COUNTED:
        if counts[mark]:
            terminalreporter.write_line(
                f"deselected: {counts[mark]} marked {mark}; run them with -m {mark}"
            )
