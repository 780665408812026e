"""Are these labels and pixels fit for a clean set of this model? If not, say why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from badexpert.errors import CleanSetError
from badexpert.sources.base import Source

AnySource = Source[Any]

MAX_LISTED = 10
"""Classes that a note names."""


def renumber(source: AnySource, class_index: Mapping[str, int]) -> Tensor:
    """The labels of a source as the model numbers its classes, (images,) int64."""
    if source.class_names is None or source.labels is None:
        raise CleanSetError(f"{source.name} names no classes; leave class_index out")
    unknown = [name for name in source.class_names if name not in class_index]
    if unknown:
        raise CleanSetError(
            f"class_index lacks {len(unknown)} classes of {source.name}, such as {unknown[0]!r}; "
            "give the model's index of each"
        )
    named = (source.labels >= 0) & (source.labels < len(source.class_names))
    if not bool(named.all()):
        raise CleanSetError(
            f"{source.name} has the label {int(source.labels[~named][0])} but only "
            f"{len(source.class_names)} class names. Mend its labels, or leave class_index out"
        )
    numbers = [class_index[name] for name in source.class_names]
    return torch.tensor(numbers, dtype=torch.int64)[source.labels]


def check_labels(source: AnySource, labels: Tensor, num_classes: int, *, renumbered: bool) -> None:
    """Refuse labels that are none, of one class, or beyond the model's classes.

    Args:
        labels: of the source, (images,) int64, perhaps renumbered.
    """
    if len(labels) == 0:
        raise CleanSetError(f"{source.name} is empty; a clean set needs samples of 2 classes")
    names = source.class_names or ()
    if len(names) > num_classes and not renumbered:
        raise CleanSetError(
            f"{source.name} has {len(names)} classes ({names[0]} to {names[-1]}), the model has "
            f"{num_classes}. Check the model, or remove the classes that it does not know"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise CleanSetError(
            f"{source.name} has labels {low} to {high}, but the model has {num_classes} classes, "
            f"0 to {num_classes - 1}. Check that data and model belong together"
        )
    if low == high:
        raise CleanSetError(
            f"{source.name} has samples of class {low} only; a clean set needs at least 2 classes"
        )


def names_of_classes(source: AnySource, class_index: Mapping[str, int] | None) -> dict[int, str]:
    """Names of the model's classes, as far as the source knows them."""
    if class_index is not None:
        return {index: name for name, index in class_index.items()}
    return dict(enumerate(source.class_names or ()))


def note_of_missing(
    missing: Sequence[int], num_classes: int, names: Mapping[int, str]
) -> tuple[str, ...]:
    """A note if there are classes of the model that a clean set has no sample of.

    Args:
        names: of classes, by index; may lack any.
    """
    if not missing:
        return ()
    listed = [_listed(index, names.get(index, "")) for index in missing]
    if len(listed) > MAX_LISTED:
        listed[MAX_LISTED:] = [f"and {len(listed) - MAX_LISTED} more"]
    return (
        f"no clean samples of {len(missing)} of the model's {num_classes} classes: "
        f"{', '.join(listed)}. Clean inputs of these are flagged more often than the stated rate",
    )


def _listed(index: int, name: str) -> str:
    return f"{index} ({name})" if name not in ("", str(index)) else str(index)


def check_pixels(pixels: Tensor, labels: Tensor) -> None:
    """Refuse tensors that are not images with labels, or whose pixels are beyond their range."""
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or labels.shape != pixels.shape[:1]:
        raise CleanSetError(
            f"pixels of shape {tuple(pixels.shape)} and labels of shape {tuple(labels.shape)}; "
            "expected (samples, 1 or 3, height, width) and (samples,)"
        )
    if pixels.dtype == torch.uint8 or not pixels.numel():
        return
    low, high = float(pixels.min()), float(pixels.max())
    if not pixels.is_floating_point() or not (low >= 0 and high <= 1):
        raise CleanSetError(
            f"pixels of {pixels.dtype} from {low:.4g} to {high:.4g}; expected uint8, or floats in "
            "[0, 1], not normalised"
        )
