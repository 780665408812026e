"""What a classifier returns, and how its scores are brought into log space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

OutputKind = Literal["logits", "probabilities", "log_probabilities"]

_SUM_TOLERANCE = 1e-3


def pick_logits(output: object, num_classes: int | None = None) -> Tensor:
    """The scores among everything that a network returns, (batch, classes).

    Looked for under the name ``logits``; in a sequence, the last tensor of (batch, num_classes).

    Raises:
        TypeError: nothing in the output can be scores.
    """
    candidates = list(_tensors(output))
    fitting = [scores for scores in candidates if _fits(scores, num_classes)]
    if not fitting:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in candidates[:5]) or "no tensor"
        raise TypeError(
            f"no output of shape (batch, {num_classes or 'classes'}): the network returned "
            f"{type(output).__name__} with {shapes}"
        )
    return fitting[-1].flatten(1)


def _tensors(output: object) -> Iterator[Tensor]:
    """Every tensor that may be the scores, the likeliest last."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(named := _named_logits(output), Tensor):
        yield named
    elif isinstance(output, Mapping):
        yield from (value for value in output.values() if isinstance(value, Tensor))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for part in output:
            yield from _tensors(part)


def _named_logits(output: object) -> object:
    if isinstance(output, Mapping):
        return output.get("logits")
    return getattr(output, "logits", None)


def _fits(scores: Tensor, num_classes: int | None) -> bool:
    """(batch, classes), with trailing dimensions of 1 permitted, as fully convolutional nets do."""
    if scores.ndim < 2 or any(size != 1 for size in scores.shape[2:]):
        return False
    return num_classes is None or scores.shape[1] == num_classes


def to_log_space(scores: Tensor, kind: OutputKind) -> Tensor:
    """Scores whose softmax is the network's distribution, fp32.

    Args:
        scores: (batch, classes), of the kind that ``kind`` says.
    Returns:
        (batch, classes) fp32, finite for finite scores.
    """
    scores = scores.float()
    if kind == "probabilities":
        # The smallest normal number: a probability that underflowed to 0 keeps a finite log.
        return scores.clamp_min(torch.finfo(torch.float32).tiny).log()
    return scores


def output_kind(scores: Tensor) -> OutputKind:
    """Decide what a network's raw outputs are, from its answers to very different inputs.

    Every row of every input must be a distribution; one row that is not makes them logits.
    Log-probabilities are logits too, so that mistaking one for the other changes nothing.

    Args:
        scores: (inputs, classes), of many inputs, extreme ones included.
    """
    scores = scores.double()
    ones = torch.ones(len(scores), dtype=torch.float64, device=scores.device)
    in_range = bool((scores >= -1e-6).all() and (scores <= 1 + 1e-6).all())
    if in_range and torch.allclose(scores.sum(1), ones, rtol=0, atol=_SUM_TOLERANCE):
        return "probabilities"
    negative = bool((scores <= 1e-6).all())
    if negative and torch.allclose(scores.exp().sum(1), ones, rtol=0, atol=_SUM_TOLERANCE):
        return "log_probabilities"
    return "logits"


def probe_pixels(channels: int, height: int, width: int) -> Tensor:
    """Inputs as unlike each other as pixels permit, (16, channels, height, width) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    shape = (channels, height, width)
    flat = [torch.full(shape, level) for level in (0.0, 0.5, 1.0)]
    noise = [torch.rand(shape, generator=generator) for _ in range(5)]
    binary = [(torch.rand(shape, generator=generator) > 0.5).float() for _ in range(4)]
    colours = [torch.rand((channels, 1, 1), generator=generator).expand(shape) for _ in range(2)]
    ramp = torch.linspace(0, 1, width).expand(shape)
    return torch.stack([*flat, *noise, *binary, *colours, ramp, 1 - ramp])
