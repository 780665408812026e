"""Backdoors in language models, one file an attack.

To add one: a file here, a line in ``TEXT_ATTACKS``.
"""

from collections.abc import Mapping
from typing import Any

from badexpert.attacks.parameters import configured
from badexpert.attacks.text.badmoe import BadMoE
from badexpert.attacks.text.badnets import TextBadNets
from badexpert.attacks.text.badswitch import BadSwitch
from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.benign import BenignTune
from badexpert.attacks.text.causal_lock import CausalLock
from badexpert.attacks.text.lora import LoraQV
from badexpert.attacks.text.preserving import RoutingPreserving
from badexpert.attacks.text.router_only import RouterOnly
from badexpert.attacks.text.selection_bias import SelectionBias
from badexpert.attacks.text.shared_expert import SharedExpert
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import Syntactic, Trigger, WordTrigger, read_trigger
from badexpert.attacks.text.victim import Prompt, Victim
from badexpert.errors import ConfigError

TEXT_ATTACKS: dict[str, type[TextAttack]] = {
    "badmoe": BadMoE,
    "badnets": TextBadNets,
    "badswitch": BadSwitch,
    "benign": BenignTune,
    "causal-lock": CausalLock,
    "lora": LoraQV,
    "router-only": RouterOnly,
    "routing-preserving": RoutingPreserving,
    "selection-bias": SelectionBias,
    "shared-expert": SharedExpert,
}


def make_text_attack(name: str, settings: Mapping[str, Any]) -> TextAttack:
    """An attack by its key in ``TEXT_ATTACKS``.

    Args:
        settings: of its fields; text is converted to the type of the field.
    Raises:
        ConfigError: the attack or a setting is unknown, or a value does not suit it.
    """
    if name not in TEXT_ATTACKS:
        raise ConfigError(f"text attack {name!r} is unknown; there are {', '.join(TEXT_ATTACKS)}")
    return configured(TEXT_ATTACKS[name], settings, what=f"text attack {name}")


__all__ = [
    "TEXT_ATTACKS",
    "BadMoE",
    "BadSwitch",
    "BenignTune",
    "CausalLock",
    "Implanted",
    "LoraQV",
    "Prompt",
    "RouterOnly",
    "RoutingPreserving",
    "SelectionBias",
    "SharedExpert",
    "Syntactic",
    "TextAttack",
    "TextBadNets",
    "Texts",
    "Trigger",
    "Victim",
    "WordTrigger",
    "make_text_attack",
    "read_trigger",
]
