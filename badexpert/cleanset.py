"""Labelled clean images: checked against the model, split without overlap, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from badexpert.choice import Choice
from badexpert.cleanchecks import check_labels, check_pixels, names_of_classes, renumber
from badexpert.errors import CleanSetError
from badexpert.preprocessing import Preprocessing
from badexpert.sources import Batch, ImageSource, Unreadable, open_source, stream
from badexpert.sources.arrays import ArraySource

TENSOR_BUDGET = 4 << 30
"""Bytes of pixels that ``CleanSet.tensors`` holds at most."""

_CHUNK = 256


def mislabel(labels: Tensor, *, num_classes: int, shift: int = 1) -> Tensor:
    """The wrong labels that make a backdoor expert: ``(y + shift) mod K``.

    Args:
        labels: (samples,) int64, the true labels, in 0..K-1.
        num_classes: K.
    Raises:
        ValueError: the shift would leave every label true.
    Source: Xie et al., ICLR 2024, arXiv:2308.12439, section 3.
    """
    if shift % num_classes == 0:
        raise ValueError(f"shift={shift} changes no label of {num_classes} classes")
    return (labels + shift) % num_classes


@dataclass(frozen=True, eq=False)
class CleanSet(Choice[ImageSource]):
    """A choice of labelled images of one source.

    Attributes:
        preprocessing: the size and channels that they are brought to.
    """

    preprocessing: Preprocessing
    _met: dict[str, Unreadable] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        spec: str | Path,
        preprocessing: Preprocessing,
        *,
        num_classes: int,
        root: str | Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        class_index: Mapping[str, int] | None = None,
    ) -> Self:
        """Open and check a clean set.

        Args:
            spec: a path, or a name such as ``sklearn:digits``.
            num_classes: of the model.
            root: folder of a torchvision data set.
            limit: keep at most this many samples, chosen by class with ``seed``.
            class_index: the model's index of each class name, where the model does not number
                the classes as the source does.
        Raises:
            CleanSetError: missing, unlabelled, empty, of one class only, or with labels that the
                model does not have.
        """
        source = open_source(spec, root=root)
        whole = cls.from_source(
            source, preprocessing, num_classes=num_classes, class_index=class_index
        )
        return whole if limit is None or limit >= len(whole) else whole.take(limit, seed=seed)

    @classmethod
    def from_source(
        cls,
        source: ImageSource,
        preprocessing: Preprocessing,
        *,
        num_classes: int,
        class_index: Mapping[str, int] | None = None,
    ) -> Self:
        """All images of a source; see ``open``."""
        if source.labels is None:
            raise CleanSetError(
                f"{source.name} has no labels, and a clean set needs them. Give one subfolder a "
                "class, or a file with a label column"
            )
        labels = source.labels if class_index is None else renumber(source, class_index)
        check_labels(source, labels, num_classes, renumbered=class_index is not None)
        return cls(
            source,
            preprocessing=preprocessing,
            indices=torch.arange(len(labels)),
            labels=labels,
            num_classes=num_classes,
            notes=source.notes,
            class_names=names_of_classes(source, class_index),
        )

    @classmethod
    def from_tensors(cls, pixels: Tensor, labels: Tensor, *, num_classes: int) -> Self:
        """A clean set from memory.

        Args:
            pixels: (samples, 1 or 3, height, width), uint8, or floats in [0, 1].
            labels: (samples,) int64.
        Raises:
            CleanSetError: shapes or ranges are wrong, or what ``open`` refuses.
        """
        check_pixels(pixels, labels)
        pixels = pixels.detach().cpu()
        if pixels.is_floating_point():
            pixels = pixels.float()
        _, channels, height, width = pixels.shape
        gray = (0.0,) * channels
        preprocessing = Preprocessing(height, width, channels, mean=gray, std=(1.0,) * channels)
        array = pixels.permute(0, 2, 3, 1).numpy()
        source = ArraySource("tensors", "tensor", array, labels.detach().cpu().long())
        return cls.from_source(source, preprocessing, num_classes=num_classes)

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images that reading this set, or a part cut from it, has met and could not decode."""
        return tuple(self._met[item] for item in sorted(self._met))

    def batches(self, batch_size: int, *, workers: int = 0) -> Iterator[Batch]:
        """Stream the set in the order of the source, in bounded memory.

        Raises:
            NothingReadableError: no image can be read.
        """
        for batch in stream(
            self.source,
            self.preprocessing,
            batch_size=batch_size,
            workers=workers,
            indices=self.indices,
        ):
            self._met.update({item.id: item for item in batch.unreadable})
            yield replace(batch, labels=self._labels_at(batch.indices))

    def tensors(self, *, workers: int = 0, budget: int = TENSOR_BUDGET) -> tuple[Tensor, Tensor]:
        """All readable images at once, for tuning; the others stand in ``unreadable`` afterwards.

        Args:
            budget: bytes that the pixels may take.
        Returns:
            (samples, channels, height, width), uint8 or float32 in [0, 1], and (samples,) int64.
        Raises:
            CleanSetError: the pixels exceed the budget, or fewer than 2 classes are readable.
        """
        pixels, labels, filled = torch.empty(0), torch.empty_like(self.labels), 0
        for batch in self.batches(_CHUNK, workers=workers):
            if filled == 0:
                pixels = self._allocate(batch.inputs, budget)
            end = filled + len(batch.ids)
            pixels[filled:end] = batch.inputs
            labels[filled:end] = self._labels_at(batch.indices)
            filled = end
        labels = labels[:filled]
        if len(labels.unique()) < 2:
            raise CleanSetError(
                f"{self.source.name}: after {len(self) - filled} unreadable images, only class "
                f"{int(labels[0])} is left; at least 2 are needed. Mend the files"
            )
        return pixels[:filled], labels

    def _allocate(self, inputs: Tensor, budget: int) -> Tensor:
        each = inputs[0].numel() * inputs.element_size()
        if len(self) * each > budget:
            raise CleanSetError(
                f"{len(self)} images of {each} bytes need {len(self) * each / 2**30:.1f} GiB, more "
                f"than {budget / 2**30:.1f} GiB. Use at most limit={budget // each} samples"
            )
        return inputs.new_empty((len(self), *inputs.shape[1:]))
