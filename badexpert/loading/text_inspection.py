"""What was understood of a language model, and whether its accuracy on clean texts fits that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from badexpert.errors import CleanSetError
from badexpert.loading.hints import class_order_hint
from badexpert.loading.inspection import (
    AccuracyCheck,
    Inspection,
    accuracy_of,
    check_range,
    confusion_of,
    count_layers,
)
from badexpert.models.language import TextSuspect

TextBatches = Iterable[tuple[Sequence[str], Tensor]]
"""Texts with their class indices."""

_PROBES = ("", "a", "The film was good, and the day was long.")


def inspect_text_suspect(suspect: TextSuspect, batches: TextBatches | None = None) -> Inspection:
    """Say what was understood of a language model.

    Args:
        batches: clean texts with labels; None for a model that writes responses.
    Raises:
        CleanSetError: a label is none of the suspect's classes, or there is no text.
    """
    return Inspection(
        origin=suspect.origin,
        num_classes=suspect.num_classes,
        outputs="logits",
        layers=count_layers(suspect.module),
        preprocessing=suspect.preprocessing,
        deterministic=_is_deterministic(suspect),
        check=None if batches is None else check_text_accuracy(suspect, batches),
    )


def check_text_accuracy(suspect: TextSuspect, batches: TextBatches) -> AccuracyCheck:
    """Accuracy on clean texts, whether it is near chance, and whether classes are in order.

    Raises:
        CleanSetError: a label is none of the suspect's classes, or there is no text.
    """
    classes = suspect.num_classes
    if classes is None:
        raise CleanSetError("a model that writes responses has no accuracy; give no labels")
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for texts, labels in batches:
        check_range(labels, classes)
        confusion += confusion_of(labels, suspect.predict(texts), classes)
    if not bool(confusion.any()):
        raise CleanSetError("there is no clean text to check the accuracy on; add some")
    return accuracy_of(confusion, class_order_hint(confusion))


@torch.no_grad()
def _is_deterministic(suspect: TextSuspect) -> bool:
    rows = suspect.network_inputs(_PROBES)
    return torch.allclose(suspect.logits(rows), suspect.logits(rows), rtol=1e-3, atol=1e-4)
