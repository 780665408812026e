"""PSBD: a trigger still decides when much of what the network sees inside is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from badexpert.cleanset import CleanSet
from badexpert.detectors.base import Fitted, PixelDetector, probabilities_of
from badexpert.detectors.layers import seeing
from badexpert.errors import AuditError
from badexpert.extraction import Views
from badexpert.extraction.comparison import SUSPECT
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext

PASSES = 3
"""The paper's k: forward passes with dropout."""

RATES = tuple(tenth / 10 for tenth in range(1, 10))
"""Of dropout, from which one is chosen; from the authors' code."""

SHIFTED = 0.8
"""Share of clean answers that must change for a rate to count; from the authors' code."""

_ROWS = 256

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh)

Masks = Mapping[str, Tensor]
"""By place in the network, (1, ...) bool: what is kept."""


class PSBD(PixelDetector):
    """How much of the answer's probability is left under dropout: the most, for triggers.

    Dropout stands behind every residual block, or, in a network without blocks, behind every
    activation, as in the authors' networks.

    Source: Li et al., CVPR 2025, arXiv:2406.05826, section 4.
    Departs: the rate is the lowest at which clean answers shift, since there is no suspicious
        training set to compare with; all inputs meet the same masks, so that a score depends on
        nothing else; the score is minus the uncertainty.
    """

    name: ClassVar[str] = "psbd"

    @classmethod
    @torch.inference_mode()
    def learn(cls, suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> Fitted:
        """Choose the rate and draw the masks.

        Raises:
            AuditError: the network has neither blocks nor activations that return a tensor.
        """
        pixels, _ = clean.tensors()
        noise = _noise(suspect, pixels[:1], context.generator(cls.name))
        shifts = {}
        for rate in RATES:
            shifts[rate] = _shift(suspect, pixels, [_kept(each, rate) for each in noise], rate)
            if shifts[rate] >= SHIFTED:
                break
        chosen = max(shifts, key=lambda rate: shifts[rate])
        notes: tuple[str, ...] = ()
        if shifts[chosen] < SHIFTED:
            notes = (f"psbd: dropout changes at most {shifts[chosen]:.0%} of the clean answers",)
        masks = {
            f"mask.{number}.{place}": mask
            for number, each in enumerate(noise)
            for place, mask in _kept(each, chosen).items()
        }
        return Fitted({"rate": torch.tensor(chosen), **masks}, notes)

    def combine(self, views: Views) -> Tensor:
        suspect, rate = self.suspect, float(self.fitted("rate"))
        before = views.log_odds[SUSPECT].double().sigmoid()
        passes = (
            dropped(suspect, views.inputs, self._masks(number), rate) for number in range(PASSES)
        )
        after = [probabilities_of(views.answers, logits) for logits in passes]
        return torch.stack(after).mean(0) - before

    def _masks(self, number: int) -> Masks:
        prefix = f"mask.{number}."
        names = [name for name in self.bundle.fitted[self.name] if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.fitted(name) for name in names}


def dropped(suspect: VisionSuspect, pixels: Tensor, masks: Masks, rate: float) -> Tensor:
    """Logits of the suspect with dropout inside, (batch, classes); it stays as it is.

    Args:
        pixels: (batch, channels, height, width), in [0, 1].
        masks: what is kept, at each place.
        rate: share that is dropped; the rest is scaled up by as much.
    """

    def see(place: str, output: Tensor) -> Tensor | None:
        return output * masks[place] / (1 - rate) if place in masks else None

    with seeing(places(suspect.network), see):
        return suspect.logits(pixels)


def places(network: nn.Module) -> dict[str, nn.Module]:
    """The modules behind which dropout stands, by name."""
    blocks = {
        f"{name}.{part}" if name else part: module
        for name, parent in network.named_modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList)
        for part, module in parent.named_children()
        if _layers_in(module) >= 2
    }
    innermost = {
        name: module
        for name, module in blocks.items()
        if not any(other.startswith(f"{name}.") for other in blocks)
    }
    return innermost or {
        name: module for name, module in network.named_modules() if isinstance(module, _ACTIVATIONS)
    }


def _layers_in(module: nn.Module) -> int:
    """How many layers with weights a module is made of; 0 for one that is a layer itself."""
    parts = list(module.modules())[1:]
    return sum(isinstance(part, nn.Linear | nn.modules.conv._ConvNd) for part in parts)


def _noise(
    suspect: VisionSuspect, example: Tensor, generator: torch.Generator
) -> list[dict[str, Tensor]]:
    """Uniform numbers for each pass and place, (1, ...) each."""
    shapes: dict[str, torch.Size] = {}

    def see(place: str, output: Tensor) -> None:
        if len(output) == 1:
            shapes[place] = output.shape

    with seeing(places(suspect.network), see):
        suspect.logits(example)
    if not shapes:
        raise AuditError(
            "psbd drops outputs of residual blocks or of activation modules, and this model has "
            "neither. Choose another detector, such as detection.detector = 'badexpert'"
        )
    return [
        {
            place: torch.rand(shape, generator=generator).to(suspect.device)
            for place, shape in shapes.items()
        }
        for _ in range(PASSES)
    ]


def _kept(noise: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
    return {place: values >= rate for place, values in noise.items()}


def _shift(suspect: VisionSuspect, pixels: Tensor, masks: list[Masks], rate: float) -> float:
    """Share of the answers that dropout changes."""
    changed = [
        dropped(suspect, rows, each, rate).argmax(1) != suspect.predict(rows)
        for rows in pixels.split(_ROWS)
        for each in masks
    ]
    return torch.cat(changed).double().mean().item()
