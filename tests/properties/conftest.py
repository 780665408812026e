"""The same examples in every run, however busy the machine is."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("badexpert", derandomize=True, deadline=None)
settings.load_profile("badexpert")
