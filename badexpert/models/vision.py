"""An image classifier under audit."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from badexpert.errors import ModelLoadError
from badexpert.models.answering import CLASSES, Answering, log_odds
from badexpert.models.network import VisionNetwork, place_of
from badexpert.models.origin import Origin, count_parameters, digest_module
from badexpert.models.outputs import OutputKind, output_kind, pick_logits, probe_pixels
from badexpert.preprocessing import Preprocessing


class VisionSuspect:
    """An image classifier under audit; implements ``badexpert.suspect.Suspect``.

    Inputs are pixels of the model's own size, (batch, channels, height, width), RGB, uint8 in
    0..255 or floating in [0, 1]; normalisation happens inside.

    Attributes:
        network: maps floating pixels to log-space scores, one traceable module.
        preprocessing: from image file to first layer.
        outputs: what the wrapped network returns.
        origin: where the model came from.
        answering: how answers are read off the scores.
    """

    answering: Answering = CLASSES

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        num_classes: int,
        outputs: OutputKind = "logits",
        *,
        origin: Origin | None = None,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes; got {num_classes}")
        self.network = VisionNetwork(module, preprocessing, num_classes, outputs)
        self.preprocessing = preprocessing
        self.outputs = outputs
        self.origin = origin if origin is not None else origin_of_object(module)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        preprocessing: Preprocessing,
        *,
        num_classes: int | None = None,
        origin: Origin | None = None,
    ) -> Self:
        """Take over a network, finding out by probing what it returns.

        Args:
            module: switched to eval mode and, where it permits, to channels_last memory; its
                weights are never changed.
            num_classes: needed only where the network returns several tensors, none of them last
                or named ``logits``.
        Raises:
            ModelLoadError: the network fails on inputs of this size, or returns no scores.
        """
        module.eval()
        pixels = probe_pixels(preprocessing.channels, preprocessing.height, preprocessing.width)
        raw = _probe(module, preprocessing, num_classes, pixels)
        _prefer_channels_last(module, preprocessing, num_classes, pixels[-2:])
        return cls(module, preprocessing, raw.shape[1], output_kind(raw), origin=origin)

    @property
    def module(self) -> nn.Module:
        """The user's own network, in eval mode."""
        return self.network.module

    @property
    def num_classes(self) -> int:
        """How many answers there are."""
        return self.network.num_classes

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.mean.device

    def logits(self, inputs: Tensor) -> Tensor:
        """Log-space scores, (batch, classes) fp32, differentiable; their softmax is the answer.

        Raises:
            ValueError: the inputs are not pixels of the model's size.
        """
        scores: Tensor = self.network(self.pixels(inputs))
        return scores

    def pixels(self, inputs: Tensor) -> Tensor:
        """Inputs as floating pixels in [0, 1] on the model's device.

        Raises:
            ValueError: the inputs are not pixels of the model's size.
        """
        expected = (
            self.preprocessing.channels,
            self.preprocessing.height,
            self.preprocessing.width,
        )
        if inputs.ndim != 4 or tuple(inputs.shape[1:]) != expected:
            raise ValueError(f"inputs must be (batch, {expected}); got {tuple(inputs.shape)}")
        inputs = inputs.to(self.device)
        if inputs.dtype == torch.uint8:
            return inputs.to(self.network.mean.dtype) / 255
        if not inputs.is_floating_point():
            raise ValueError(f"inputs must be uint8 or floating in [0, 1]; got {inputs.dtype}")
        return inputs

    def network_inputs(self, inputs: Tensor) -> Tensor:
        """As ``pixels``: what every suspect calls that which its network takes."""
        return self.pixels(inputs)

    def spelled(self, inputs: Tensor, answers: Tensor) -> list[int | str]:
        """Answers as a person reads them: class indices."""
        return list(answers.tolist())

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """The model's answers, (batch,) int64 class indices."""
        return self.logits(inputs).argmax(1)

    def log_odds(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """``log p / (1 - p)`` of each answer, (batch,) fp32; finite where softmax saturates."""
        return log_odds(self.logits(inputs), answers.to(self.device))

    def loss(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Mean cross-entropy of the answers, scalar, differentiable."""
        return functional.cross_entropy(self.logits(inputs), answers.to(self.device))

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device, in place."""
        self.network.to(device)
        return self

    def copy(self) -> Self:
        """A deep copy, in eval mode, whose parameters may be tuned."""
        return copy.deepcopy(self)


def origin_of_object(module: nn.Module) -> Origin:
    """The origin of a network that came as a Python object."""
    return Origin(
        source="python object",
        sha256=digest_module(module),
        files=(),
        format="python object",
        architecture=f"{type(module).__module__}.{type(module).__qualname__}",
        parameters=count_parameters(module),
        stored_dtype=str(place_of(module)[1]).removeprefix("torch."),
    )


@torch.no_grad()
def _probe(
    module: nn.Module, preprocessing: Preprocessing, num_classes: int | None, pixels: Tensor
) -> Tensor:
    """Raw scores of some pixels, (inputs, classes)."""
    device, dtype = place_of(module)
    mean = torch.tensor(preprocessing.mean).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std).view(-1, 1, 1)
    inputs = ((pixels - mean) / std).to(device, dtype)
    try:
        scores = torch.cat(
            [pick_logits(module(part), num_classes) for part in torch.split(inputs, 4)]
        )
    except Exception as error:
        # The network is the user's code: it may raise anything on an input it was not made for.
        size = "x".join(map(str, pixels.shape[1:]))
        raise ModelLoadError(
            f"the network fails on a batch of {size} inputs: "
            f"{type(error).__name__}: {str(error)[:300]}. Check its input size and channels"
        ) from error
    if scores.shape[1] < 2:
        raise ModelLoadError(
            "the network returns a single score; a classifier of two classes must return two"
        )
    return scores


def _prefer_channels_last(
    module: nn.Module, preprocessing: Preprocessing, num_classes: int | None, pixels: Tensor
) -> None:
    """Use the memory format that makes convolutions fast on a CPU, where the network permits it.

    A network that flattens with ``view`` cannot take it, and says so on the first batch.
    """
    module.to(memory_format=torch.channels_last)
    try:
        _probe(module, preprocessing, num_classes, pixels)
    except ModelLoadError:
        module.to(memory_format=torch.contiguous_format)
