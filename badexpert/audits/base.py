"""What every model-level audit is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from badexpert.findings import AuditStatus, Finding
from badexpert.runtime import RunContext
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples


class Audit(Protocol):
    """Looks at a model as a whole; one entry of ``AUDITS``."""

    def applies(self, suspect: Suspect) -> bool:
        """Whether this audit has anything to look at in this model."""
        ...

    def run(
        self, suspect: Suspect, clean: CleanSamples, context: RunContext
    ) -> Iterator[Finding | AuditStatus]:
        """What is suspicious, as it is found; at the end maybe what was seen, found or not.

        Raises:
            AuditError: the audit could not be finished; what was found before stands.
        """
        ...
