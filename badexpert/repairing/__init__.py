"""Repair of Mixture-of-Experts language models: what a named expert knows is taken out of them.

To add a way: a function in ``ways``, or a file of its own, and a line in ``WAYS``.
"""

from badexpert.audits.experts.named import named_experts
from badexpert.repairing.measured import Measured, Triggered, open_triggered
from badexpert.repairing.repair import WAYS, Repair, repair, require_way

__all__ = [
    "WAYS",
    "Measured",
    "Repair",
    "Triggered",
    "named_experts",
    "open_triggered",
    "repair",
    "require_way",
]
