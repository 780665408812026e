"""Model-level audits: is this model, class, layer or expert suspicious?

To add one: a file here, a line in ``AUDITS``.
"""

from badexpert.audits.base import Audit
from badexpert.audits.experts import AUDIT as EXPERTS
from badexpert.audits.experts import ExpertsAudit

AUDITS: dict[str, Audit] = {EXPERTS: ExpertsAudit()}

__all__ = ["AUDITS", "Audit"]
