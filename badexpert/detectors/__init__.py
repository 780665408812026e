"""Input-level detectors: is this input a trigger?

To add one: a file here, a line in ``DETECTORS``.
"""

from badexpert.detectors.badexpert import BaDExpert
from badexpert.detectors.base import Detector, Judgement
from badexpert.detectors.paper import PaperBaDExpert, ensemble_score

DETECTORS: dict[str, type[Detector]] = {
    detector.name: detector for detector in (BaDExpert, PaperBaDExpert)
}

__all__ = ["DETECTORS", "BaDExpert", "Detector", "Judgement", "PaperBaDExpert", "ensemble_score"]
