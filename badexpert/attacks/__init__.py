"""Red-team fixtures: backdoors to plant in models of one's own, one file an attack.

To add one: a file here, a line in ``ATTACKS``.
"""

from badexpert.attacks.badnet import BadNet
from badexpert.attacks.base import Attack, poison_indices
from badexpert.attacks.blend import Blend
from badexpert.attacks.sig import SIG

ATTACKS: dict[str, type[Attack]] = {
    "badnet": BadNet,
    "blend": Blend,
    "sig": SIG,
}

__all__ = ["ATTACKS", "SIG", "Attack", "BadNet", "Blend", "poison_indices"]
