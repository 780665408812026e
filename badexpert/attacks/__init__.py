"""Red-team fixtures: backdoors to plant in models of one's own, one file an attack.

To add one: a file here, a line in ``ATTACKS``.
"""

from collections.abc import Mapping
from typing import Any

from badexpert.attacks.adap_blend import AdapBlend
from badexpert.attacks.adap_patch import AdapPatch
from badexpert.attacks.adaptive import Adaptive
from badexpert.attacks.all_to_all import AllToAll
from badexpert.attacks.badnet import BadNet
from badexpert.attacks.badpatches import BadPatches
from badexpert.attacks.base import Attack, ModelAttack, PoisoningAttack
from badexpert.attacks.blend import Blend
from badexpert.attacks.bpp import BPP
from badexpert.attacks.clean_label import CleanLabel
from badexpert.attacks.dynamic import Dynamic
from badexpert.attacks.ft import FT
from badexpert.attacks.images import Images
from badexpert.attacks.issba import ISSBA
from badexpert.attacks.natural import Natural
from badexpert.attacks.parameters import configured
from badexpert.attacks.planting import Planted, plant
from badexpert.attacks.poisoning import PoisonedImages
from badexpert.attacks.sig import SIG
from badexpert.attacks.sra import SRA
from badexpert.attacks.tact import TaCT
from badexpert.attacks.training import Training
from badexpert.attacks.trojan import Trojan
from badexpert.attacks.trojannn import TrojanNN
from badexpert.attacks.wanet import WaNet
from badexpert.errors import ConfigError

ATTACKS: dict[str, type[Attack]] = {
    "adap-blend": AdapBlend,
    "adap-patch": AdapPatch,
    "adaptive": Adaptive,
    "all-to-all": AllToAll,
    "badnet": BadNet,
    "badpatches": BadPatches,
    "blend": Blend,
    "bpp": BPP,
    "cl": CleanLabel,
    "dynamic": Dynamic,
    "ft": FT,
    "issba": ISSBA,
    "natural": Natural,
    "sig": SIG,
    "sra": SRA,
    "tact": TaCT,
    "trojan": Trojan,
    "trojannn": TrojanNN,
    "wanet": WaNet,
}


def make_attack(name: str, settings: Mapping[str, Any]) -> Attack:
    """An attack by its key in ``ATTACKS``.

    Args:
        settings: of its fields; text is converted to the type of the field.
    Raises:
        ConfigError: the attack or a setting is unknown, or a value does not suit it.
    """
    if name not in ATTACKS:
        raise ConfigError(f"attack {name!r} is unknown; there are {', '.join(ATTACKS)}")
    return configured(ATTACKS[name], settings, what=f"attack {name}")


def name_of(attack: Attack) -> str:
    """The key of an attack in ``ATTACKS``."""
    return next(name for name, kind in ATTACKS.items() if type(attack) is kind)


__all__ = [
    "ATTACKS",
    "BPP",
    "FT",
    "ISSBA",
    "SIG",
    "SRA",
    "AdapBlend",
    "AdapPatch",
    "Adaptive",
    "AllToAll",
    "Attack",
    "BadNet",
    "BadPatches",
    "Blend",
    "CleanLabel",
    "Dynamic",
    "Images",
    "ModelAttack",
    "Natural",
    "Planted",
    "PoisonedImages",
    "PoisoningAttack",
    "TaCT",
    "Training",
    "Trojan",
    "TrojanNN",
    "WaNet",
    "make_attack",
    "name_of",
    "plant",
]
