"""The one loop that tunes the backdoor expert, the auxiliary, and the paper's versions of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from badexpert.errors import AuditError
from badexpert.extraction.features import Features
from badexpert.extraction.low_rank import has_updates, sharing_copy, tuned_state
from badexpert.models.text_networks import PAD

Schedule = Callable[[int], float]
"""Learning rate of step 0, 1, 2, ..."""

Augment = Callable[[Tensor], Tensor]

TOKENS_AT_ONCE = 2048
"""That a model keeps its activations of for a gradient, padding included."""


def tune(
    tail: nn.Module,
    features: Features,
    targets: Tensor,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    batch_size: int,
    generator: torch.Generator,
    augment: Augment | None = None,
) -> Iterator[int]:
    """Tune ``tail`` in place, yielding the number of steps done after each; the caller stops it.

    Args:
        targets: (samples,) classes or (samples, classes) probabilities.
        optimizer: over the tail's parameters; its learning rate follows ``schedule``.
        generator: draws the order of the samples, and in which view each is seen.
    Raises:
        AuditError: the loss is no longer finite.
    """
    device = next(tail.parameters()).device
    done = 0
    try:
        while True:
            for index in _epoch(features, generator).split(batch_size):
                if len(index) < 2 <= features.samples:
                    continue  # batch-norm has no statistics of a single sample
                for group in optimizer.param_groups:
                    group["lr"] = schedule(done)
                optimizer.zero_grad(set_to_none=True)
                for piece in _pieces(index, features):
                    rows = features.rows(piece, device)
                    logits = tail(rows if augment is None else augment(rows))
                    loss = features.answering.loss(logits.float(), targets[piece].to(device))
                    if not torch.isfinite(loss):
                        raise _diverged(done + 1, schedule(done))
                    (loss * (len(piece) / len(index))).backward()
                optimizer.step()
                done += 1
                yield done
    finally:
        # A copy that is kept would keep as much memory again.
        optimizer.zero_grad(set_to_none=True)


def _epoch(features: Features, generator: torch.Generator) -> Tensor:
    """Every sample once, in one of its views, (samples,) indices."""
    order = torch.randperm(features.samples, generator=generator)
    if features.views == 1:
        return order
    views = torch.randint(features.views, order.shape, generator=generator)
    return order + features.samples * views


def _pieces(index: Tensor, features: Features) -> tuple[Tensor, ...]:
    """The samples of a step, in parts whose gradients add up; only texts are ever parted."""
    if features.values.dtype != torch.int64:
        return (index,)
    values = features.values[index]
    longest = int((values != PAD).sum(-1).max())
    tokens = longest * values[0, ..., 0].numel()
    pieces: tuple[Tensor, ...] = index.split(max(TOKENS_AT_ONCE // tokens, 1))
    return pieces


def _diverged(step: int, lr: float) -> AuditError:
    return AuditError(
        f"tuning diverged at step {step}, learning rate {lr:.2g}; check the suspect's weights and "
        "preprocessing"
    )


class MeanWeights:
    """The running mean of what is tuned of a module, and of its statistics."""

    def __init__(self) -> None:
        """Nothing has been added yet."""
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, module: nn.Module) -> None:
        """Add the module's present state."""
        self.count += 1
        for name, tensor in tuned_state(module).items():
            if tensor.is_floating_point():
                held = self._sums.setdefault(name, torch.zeros_like(tensor, dtype=torch.float64))
                held += tensor

    @torch.no_grad()
    def write(self, module: nn.Module) -> None:
        """Give the module the mean of all states that were added."""
        state = tuned_state(module)
        for name, total in self._sums.items():
            state[name].copy_(total / self.count)


def trainable_copy(tail: nn.Module) -> nn.Module:
    """A copy of which all that may be tuned gets a gradient, in the mode of the original.

    Its numbers have at least single precision: steps as small as an expert's first ones would
    vanish in half of that. A network with updates shares its weights with the copy.
    """
    if has_updates(tail):
        return sharing_copy(tail)
    return single_precision_copy(tail).requires_grad_(True)


def single_precision_copy(tail: nn.Module) -> nn.Module:
    """A copy whose numbers have at least single precision."""
    copied = copy.deepcopy(tail)
    halves = (torch.bfloat16, torch.float16)
    return copied.float() if any(p.dtype in halves for p in copied.parameters()) else copied
