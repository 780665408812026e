"""scikit-learn's handwritten digits: 1,797 grayscale images of 8x8, ten classes, built in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from badexpert.sources.arrays import ArraySource
from badexpert.sources.base import ImageSource, SourceFormat

SPEC = "sklearn:digits"


def open_digits(spec: str, root: Path | None) -> ImageSource:
    """The digits, their 17 shades of gray spread over 0..255."""
    from sklearn.datasets import load_digits  # a second of import that other sources do without

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ArraySource(
        SPEC, "digits", pixels, torch.from_numpy(labels), class_names=tuple("0123456789")
    )


DIGITS = SourceFormat(accepts=lambda spec: spec == SPEC, open=open_digits, form=SPEC)
