"""From names of classes to label numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def sorted_names(names: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: as text, or as numbers when all are numbers.

    Departs: torchvision's ImageFolder sorts numbers as text too (0, 1, 10, 2); data sets that are
    exported to numbered folders mean the number.
    """
    names = set(names)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def number_labels(values: Sequence[int | str]) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels of a column: numbers stay what they are, names are numbered in ``sorted_names`` order.

    Returns:
        (values,) int64, and the class names if the labels were names.
    """
    if all(_is_number(value) for value in values):
        return torch.tensor([int(value) for value in values], dtype=torch.int64), None
    names = sorted_names(str(value) for value in values)
    number = {name: index for index, name in enumerate(names)}
    return torch.tensor([number[str(value)] for value in values]), tuple(names)


def _is_number(value: int | str) -> bool:
    return isinstance(value, int) or value.removeprefix("-").isdecimal()
