"""IBD-PSC: a backdoor still decides when the last batch-norm layers are amplified."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from badexpert.cleanset import CleanSet
from badexpert.detectors.base import Fitted, PixelDetector, probabilities_of
from badexpert.errors import AuditError
from badexpert.extraction import Views
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext

SCALE = 1.5
"""The paper's omega."""

DEPTHS = 5
"""The paper's n: how many amplified networks are asked."""

CLEAN_ERROR = 0.6
"""The paper's xi: the first of them is the least amplified one with a higher clean error."""

_ROWS = 256


class IBDPSC(PixelDetector):
    """The mean probability of the input's answer over networks with ever more amplified layers.

    Network k has weight and bias of its last k batch-norm layers multiplied by 1.5.

    Source: Hou et al., ICML 2024, arXiv:2405.09786, section 4.
    Departs: where fewer than n networks are left to the front of the model, fewer are asked.
    """

    name: ClassVar[str] = "ibd-psc"

    @classmethod
    @torch.inference_mode()
    def learn(cls, suspect: VisionSuspect, clean: CleanSet, context: RunContext) -> Fitted:
        """Find the first network to ask.

        Raises:
            AuditError: the suspect has no batch-norm layer with weight and bias.
        """
        layers = len(_batch_norms(suspect.network))
        if not layers:
            raise AuditError(
                "ibd-psc amplifies weight and bias of batch-norm layers, and this model has none. "
                "Choose another detector, such as detection.detector = 'badexpert'"
            )
        pixels, labels = clean.tensors()
        for depth in range(1, layers + 1):
            if _error(suspect, depth, pixels, labels) > CLEAN_ERROR:
                return Fitted({"depth": torch.tensor(depth)})
        first = max(layers - DEPTHS + 1, 1)
        note = (
            f"ibd-psc: no amplification brings the clean error above {CLEAN_ERROR:.0%}; the "
            f"networks with {first} to {layers} amplified layers are asked"
        )
        return Fitted({"depth": torch.tensor(first)}, (note,))

    def combine(self, views: Views) -> Tensor:
        suspect, first = self.suspect, int(self.fitted("depth"))
        last = min(first + DEPTHS - 1, len(_batch_norms(suspect.network)))
        confidences = [
            probabilities_of(views.answers, amplified(suspect, depth, views.inputs))
            for depth in range(first, last + 1)
        ]
        return torch.stack(confidences).mean(0)


def amplified(suspect: VisionSuspect, depth: int, pixels: Tensor) -> Tensor:
    """Logits of the suspect with its last ``depth`` batch-norm layers amplified; it stays as it is.

    Args:
        pixels: (batch, channels, height, width), in [0, 1].
    """
    weights = {
        f"{name}.{kind}": getattr(layer, kind) * SCALE
        for name, layer in _batch_norms(suspect.network)[-depth:]
        for kind in ("weight", "bias")
    }
    logits: Tensor = functional_call(suspect.network, weights, (suspect.pixels(pixels),))
    return logits


def _batch_norms(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    ]


def _error(suspect: VisionSuspect, depth: int, pixels: Tensor, labels: Tensor) -> float:
    answers = [amplified(suspect, depth, rows).argmax(1).cpu() for rows in pixels.split(_ROWS)]
    return (torch.cat(answers) != labels).double().mean().item()
