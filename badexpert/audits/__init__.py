"""Model-level audits: is this model, class, layer or expert suspicious?

To add one: a file here, a line in ``AUDITS``.
"""

from badexpert.audits.base import Audit

AUDITS: dict[str, Audit] = {}

__all__ = ["AUDITS", "Audit"]
