"""What every model-level audit is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from badexpert.findings import Finding
from badexpert.runtime import RunContext
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples


class Audit(Protocol):
    """Looks at a model as a whole; one entry of ``AUDITS``."""

    def applies(self, suspect: Suspect) -> bool:
        """Whether this audit has anything to look at in this model."""
        ...

    def run(self, suspect: Suspect, clean: CleanSamples, context: RunContext) -> Iterator[Finding]:
        """What is suspicious, as it is found.

        Raises:
            AuditError: the audit could not be finished; what was found before stands.
        """
        ...
