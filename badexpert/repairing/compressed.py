"""Compressed experts in the place of named ones: a few numbers, learned from clean texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from badexpert.errors import AuditError
from badexpert.models.language import TextSuspect
from badexpert.models.text_networks import PAD
from badexpert.repairing.demoted import demote
from badexpert.repairing.ways import mean_of_siblings
from badexpert.runtime import RunContext, Step
from badexpert.textset import TextCleanSet
from moe_core.experts.compressed import train_stand_ins_only
from moe_core.lm.decoder import Decoder
from moe_core.view import ExpertId, ExpertView

STEPS = 100
BATCH = 32
LEARNING_RATE = 1e-2
"""As ``configs/moe-compressed.toml`` trains stand-ins."""

TOKENS_AT_ONCE = 2048
"""Whose activations are kept for a gradient; a batch of more is taken in pieces."""


def compress(
    suspect: TextSuspect,
    view: ExpertView,
    experts: Sequence[ExpertId],
    clean: TextCleanSet,
    context: RunContext,
) -> str:
    """Keep of experts what ``2 * width + inner`` numbers each learn from clean texts, in place.

    Everything else is frozen. Models of ``moe_core`` get its compressed experts. No layer of
    transformers computes these, so there the numbers scale the mean of an expert's siblings, which
    takes its place: ``down(act(gate(x * theta_gate)) * up(x * theta_up) * theta_inner)``, with the
    numbers multiplied into the maps.

    Returns:
        What was done.
    Raises:
        AuditError: the experts are not of plain linear maps, or learning diverges.
    Source: compressed experts, He et al., arXiv:2503.00634.
    Departs: the mean of the siblings, where the paper has the experts that a token reaches beside.
    """
    suspect.network.requires_grad_(False)
    if isinstance(suspect.module, Decoder):
        demote(suspect.module, experts)
        _fit(suspect, train_stand_ins_only(suspect.module), suspect.loss, clean, context)
        return "numbers learned on clean texts scale the states of a token's other experts"
    scaled = _ScaledMeans(suspect, view, experts)
    _fit(suspect, scaled.learned, scaled.loss, clean, context)
    scaled.put_in_place()
    scaled.release()
    return "its weights are the mean of its siblings', scaled by numbers learned on clean texts"


class _ScaledMeans:
    """The means of siblings in experts' places, scaled by numbers that can be learned.

    Attributes:
        learned: the numbers, ones at first.
    """

    def __init__(self, suspect: TextSuspect, view: ExpertView, experts: Sequence[ExpertId]) -> None:
        self._suspect = suspect
        self._view = view
        self._means = {expert: mean_of_siblings(view, expert, experts) for expert in experts}
        self._thetas = {expert: _ones(mean) for expert, mean in self._means.items()}
        self.learned = [theta for own in self._thetas.values() for theta in own.values()]

    def loss(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Of the network with them in it, scalar, differentiable by ``learned``."""
        self.put_in_place()
        return self._suspect.loss(rows, labels)

    def put_in_place(self) -> None:
        """Write them into the network, which is a function of ``learned`` from here on."""
        self.release()
        for expert, mean in self._means.items():
            for name, tensor in mean.items():
                theta = self._thetas[expert].get(name)
                # Views are taken anew each time: the last write made another tensor of their base.
                own = self._view.expert(expert)[name]
                own.copy_(tensor if theta is None else tensor * theta)

    def release(self) -> None:
        """Let weights that were written be weights again, and functions of nothing."""
        for parameter in self._suspect.module.parameters():
            if parameter.grad_fn is not None:
                parameter.detach_()


def _ones(mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers that change nothing, one for each column of each map, (in,)."""
    return {
        name: torch.ones(tensor.shape[1], device=tensor.device, requires_grad=True)
        for name, tensor in mean.items()
        if tensor.ndim == 2
    }


def _fit(
    suspect: TextSuspect,
    learned: Sequence[Tensor],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    clean: TextCleanSet,
    context: RunContext,
) -> None:
    rows = suspect.encode([text.text for text in clean.texts()])
    generator = context.generator("batches of the compressed expert")
    optimizer = torch.optim.Adam(learned, LEARNING_RATE)
    for step in range(STEPS):
        chosen = torch.randperm(len(rows), generator=generator)[:BATCH]
        optimizer.zero_grad()
        for piece in chosen.split(_texts_at_once(rows[chosen])):
            loss = loss_of(rows[piece], clean.labels[piece])
            if not torch.isfinite(loss):
                raise AuditError(
                    f"the loss is {loss.item()} at step {step + 1}; choose another way"
                )
            if loss.requires_grad:  # else no token of these texts reached the experts
                (loss * (len(piece) / len(chosen))).backward()
        optimizer.step()
        context.progress(Step("fit the compressed experts", step + 1, STEPS))


def _texts_at_once(rows: Tensor) -> int:
    """Of texts whose gradients are to be in memory together."""
    longest = int((rows != PAD).sum(1).max())
    return max(TOKENS_AT_ONCE // longest, 1)
