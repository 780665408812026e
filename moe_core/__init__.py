"""Mixture-of-Experts layers whose single experts can be seen, replaced and removed.

Holds nothing yet: the layers arrive with the audit of Mixture-of-Experts models. The package
exists already so that the direction of imports (``badexpert`` may use ``moe_core``, never the other
way) is checked from the first day.
"""
