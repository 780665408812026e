"""The catalogue of rules: what each identifier in a finding means. Identifiers never change.

BX0xx: the file. BX1xx: sanity of the audit. BX2xx: inputs. BX3xx: the model.
Taxonomies: CWE, and MITRE ATLAS (``AML.``).
"""

from __future__ import annotations

from dataclasses import dataclass

from badexpert.findings import Severity


@dataclass(frozen=True)
class Rule:
    """One kind of finding.

    Attributes:
        id: stable, and never used again for something else.
        name: the same for people.
        title: one sentence.
        help: what it means and what to do.
        severity: the usual one; a finding may carry another.
        taxonomy: CWE and ATLAS identifiers.
    """

    id: str
    name: str
    title: str
    help: str
    severity: Severity
    taxonomy: tuple[str, ...] = ()


UNSAFE_FILE = Rule(
    "BX001",
    "UnsafeModelFile",
    "The model file can run code when it is loaded",
    "The file needs more than tensors to load, so it was refused unread. Ask its author for a "
    "safetensors file, or for a state dict that torch.load(weights_only=True) accepts.",
    Severity.CRITICAL,
    ("CWE-502", "AML.T0011.000", "AML.T0018.002"),
)
NEAR_CHANCE = Rule(
    "BX101",
    "NearChanceAccuracy",
    "The model does little better than guessing on the clean set",
    "Nothing else in the report means much. The commonest cause is preprocessing: check size, "
    "mean, std and channel order, then the order of the classes.",
    Severity.LOW,
)
BETTER_SETTING = Rule(
    "BX102",
    "BetterSetting",
    "Another preprocessing or class order does clearly better",
    "The model was probably trained with other settings than it was loaded with. Give the better "
    "ones, by flag or in the configuration, and run again.",
    Severity.LOW,
)
FLAGGED_INPUTS = Rule(
    "BX201",
    "SuspiciousInputs",
    "Inputs look as if they carry a backdoor trigger",
    "The backdoor expert still gives the model's answer on these inputs while it has lost the "
    "normal task. Look at them, keep them from the model, and find out where they came from.",
    Severity.HIGH,
    ("CWE-510", "AML.T0043.004"),
)

EXPERT_BACKDOOR = Rule(
    "BX301",
    "BackdoorInExperts",
    "A backdoor lives in single experts of the model",
    "A few words lead almost any text to one answer, and fail when these experts are taken away. "
    "Try the words yourself. Do not use the model; removing the experts removes this trigger, and "
    "says nothing of others.",
    Severity.HIGH,
    ("CWE-506", "AML.T0018.000", "AML.T0043.004"),
)
WIDESPREAD_BACKDOOR = Rule(
    "BX302",
    "BackdoorNotInExperts",
    "A backdoor that does not depend on single experts",
    "A few words lead almost any text to one answer, whichever experts are taken away: attention, "
    "embeddings or many experts carry it. Try the words yourself, and do not use the model.",
    Severity.HIGH,
    ("CWE-506", "AML.T0018.000", "AML.T0043.004"),
)

DECISIVE = frozenset({EXPERT_BACKDOOR.id, WIDESPREAD_BACKDOOR.id})
"""Rules whose findings say that the model itself hides a backdoor."""

RULES = {
    rule.id: rule
    for rule in (
        UNSAFE_FILE,
        NEAR_CHANCE,
        BETTER_SETTING,
        FLAGGED_INPUTS,
        EXPERT_BACKDOOR,
        WIDESPREAD_BACKDOOR,
    )
}
