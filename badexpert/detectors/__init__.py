"""Input-level detectors: is this input a trigger?

To add one: a file here, a line in ``DETECTORS``.
"""

from badexpert.detectors.badexpert import BaDExpert
from badexpert.detectors.base import Detector, Fitted, Judgement
from badexpert.detectors.confidence import MaxSoftmax
from badexpert.detectors.ibd_psc import IBDPSC
from badexpert.detectors.knock_out import KnockOut
from badexpert.detectors.paper import PaperBaDExpert, ensemble_score
from badexpert.detectors.psbd import PSBD
from badexpert.detectors.scale_up import ScaleUp
from badexpert.detectors.strip import Strip
from badexpert.detectors.teco import TeCo
from badexpert.detectors.tedpp import TEDPlusPlus

DETECTORS: dict[str, type[Detector]] = {
    detector.name: detector
    for detector in (
        BaDExpert,
        PaperBaDExpert,
        MaxSoftmax,
        Strip,
        ScaleUp,
        IBDPSC,
        TEDPlusPlus,
        PSBD,
        TeCo,
    )
}

__all__ = [
    "DETECTORS",
    "BaDExpert",
    "Detector",
    "Fitted",
    "Judgement",
    "KnockOut",
    "PaperBaDExpert",
    "ensemble_score",
]
