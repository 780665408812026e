"""The experts of a language model: which of them a backdoor lives in, if one does in any.

First a trigger is inverted for each class, then its success is measured without each expert.
Statistics of routing and weights stand beside it: an order in which to look, and no evidence.
"""

from badexpert.audits.experts.attribution import Attribution
from badexpert.audits.experts.audit import ExpertAudit, audit_experts
from badexpert.audits.experts.inverted import InvertedTrigger
from badexpert.audits.experts.report import AUDIT, ExpertsAudit, experts_report
from badexpert.audits.experts.verdict import ExpertVerdict, Judged

__all__ = [
    "AUDIT",
    "Attribution",
    "ExpertAudit",
    "ExpertVerdict",
    "ExpertsAudit",
    "InvertedTrigger",
    "Judged",
    "audit_experts",
    "experts_report",
]
