"""How well a detector tells triggered inputs from clean ones, on a model whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from badexpert.attacks import Attack
from badexpert.detectors import Detector
from badexpert.extraction import Bundle, Views

_ROWS = 250


@dataclass(frozen=True)
class Trial:
    """One backdoored (or benign) model's test inputs as a bundle sees them.

    Attributes:
        labels: true classes of the clean inputs, (clean,).
        clean: views of the clean inputs.
        triggered: views of the triggered inputs that count towards the attack success rate.
        hits: which of these the suspect answers as the attacker wants, (triggered,) bool.
    """

    labels: Tensor
    clean: Views
    triggered: Views
    hits: Tensor


@dataclass(frozen=True)
class Measurement:
    """A detector's performance on one trial; shares in [0, 1].

    Attributes:
        clean_accuracy: of the suspect.
        clean_accuracy_after_rejection: a rejected clean input counts as an error.
        attack_success_rate: of the triggered inputs that count.
        attack_success_rate_after_rejection: answered as the attacker wants and not flagged.
        auroc: all clean inputs against the triggered ones that succeed; None without any.
        auroc_of_correct: as the paper counts it: clean inputs that are answered right against the
            triggered ones that succeed.
        tpr_at_1_fpr: share of successful triggered inputs above the 99th percentile of the clean
            test inputs; None without any.
        tpr_at_01_fpr: the same above the 99.9th percentile; None with fewer than 1,000 clean test
            inputs, too.
        detection_rate: share of successful triggered inputs above the calibrated threshold.
        realised_fpr: share of clean test inputs above the calibrated threshold.
        stated_fpr: what the calibration promised.
    """

    clean_accuracy: float
    clean_accuracy_after_rejection: float
    attack_success_rate: float
    attack_success_rate_after_rejection: float
    auroc: float | None
    auroc_of_correct: float | None
    tpr_at_1_fpr: float | None
    tpr_at_01_fpr: float | None
    detection_rate: float | None
    realised_fpr: float
    stated_fpr: float


def look_at(bundle: Bundle, attack: Attack, pixels: Tensor, labels: Tensor) -> Trial:
    """Show a bundle clean inputs and the same inputs with the trigger.

    Args:
        pixels: (samples, channels, height, width) uint8.
        labels: (samples,) int64, the true classes.
    """
    counted = attack.counts(labels)
    stamped = [attack.stamp(rows.float() / 255) for rows in pixels[counted].split(_ROWS)]
    triggered = _views(bundle, torch.cat(stamped))
    classes = bundle.suspect.num_classes
    assert classes is not None, "attacks are on classifiers"
    wanted = attack.relabel(labels[counted], classes)
    hits = triggered.answers == wanted
    return Trial(labels, _views(bundle, pixels), triggered, hits)


def measure(detector: Detector, trial: Trial) -> Measurement:
    """Measure a calibrated detector."""
    clean, triggered = _scores(detector, trial.clean), _scores(detector, trial.triggered)
    clean_flags, triggered_flags = clean > detector.threshold, triggered > detector.threshold
    correct = trial.clean.answers == trial.labels
    hits = triggered[trial.hits]
    calibration = detector.calibration
    assert calibration is not None
    return Measurement(
        clean_accuracy=_share(correct),
        clean_accuracy_after_rejection=_share(correct & ~clean_flags),
        attack_success_rate=_share(trial.hits),
        attack_success_rate_after_rejection=_share(trial.hits & ~triggered_flags),
        auroc=auroc(clean, hits),
        auroc_of_correct=auroc(clean[correct], hits),
        tpr_at_1_fpr=None if not len(hits) else _share(hits > clean.quantile(0.99)),
        tpr_at_01_fpr=_tpr_at_one_in_a_thousand(clean, hits),
        detection_rate=None if not len(hits) else _share(triggered_flags[trial.hits]),
        realised_fpr=_share(clean_flags),
        stated_fpr=calibration.fpr,
    )


def auroc(negatives: Tensor, positives: Tensor) -> float | None:
    """Probability that a positive scores above a negative, ties counted half; None if one is
    missing."""
    if not len(negatives) or not len(positives):
        return None
    truth = [0] * len(negatives) + [1] * len(positives)
    return float(roc_auc_score(truth, torch.cat([negatives, positives]).numpy()))


def _tpr_at_one_in_a_thousand(clean: Tensor, hits: Tensor) -> float | None:
    if not len(hits) or len(clean) < 1000:
        return None
    return _share(hits > clean.quantile(0.999))


def _share(flags: Tensor) -> float:
    return flags.double().mean().item()


def _scores(detector: Detector, views: Views) -> Tensor:
    """As a user gets them: in batches, from pixels."""
    return torch.cat([detector.score(rows) for rows in views.inputs.split(_ROWS)])


def _views(bundle: Bundle, pixels: Tensor) -> Views:
    views = [bundle.view(rows) for rows in pixels.split(_ROWS)]
    looks: Mapping[str, Tensor] = {
        part: torch.cat([view.log_odds[part] for view in views]).cpu() for part in views[0].log_odds
    }
    answers = torch.cat([view.answers for view in views]).cpu()
    inputs = torch.cat([view.inputs for view in views]).cpu()
    far = [view.distances.cpu() for view in views if view.distances is not None]
    return Views(answers, looks, inputs, torch.cat(far) if far else None)
