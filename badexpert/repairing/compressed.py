"""Compressed experts in the place of named ones: a few numbers, learned from clean texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from badexpert.models.language import TextSuspect
from badexpert.repairing.ways import mean_of_siblings
from badexpert.runtime import RunContext, Step
from badexpert.textset import TextCleanSet
from moe_core.view import ExpertId, ExpertView

STEPS = 100
BATCH = 32
LEARNING_RATE = 1e-2
"""As ``configs/moe-compressed.toml`` trains stand-ins."""

_Thetas = Mapping[str, Tensor]


def compress(
    suspect: TextSuspect,
    view: ExpertView,
    experts: Sequence[ExpertId],
    clean: TextCleanSet,
    context: RunContext,
) -> str:
    """Put the mean of an expert's siblings into its place, scaled by stand-ins, in place.

    ``down(act(gate(x * theta_gate)) * up(x * theta_up) * theta_inner)`` with the mean's maps: the
    ``2 * width + inner`` numbers are learned from the labels of clean texts, everything else is
    frozen. They are multiplied into the maps, so that the layer keeps its form.

    Returns:
        What was done.
    Raises:
        AuditError: the experts are not of plain linear maps.
    Source: compressed experts, He et al., arXiv:2503.00634.
    Departs: there the stand-ins of experts that do not run scale the states inside those that do,
        which no other layer computes.
    """
    suspect.network.requires_grad_(False)
    means = {expert: mean_of_siblings(view, expert, experts) for expert in experts}
    thetas = {expert: _ones(mean) for expert, mean in means.items()}

    def put_in_place() -> None:
        _detach(suspect.module)
        for expert, mean in means.items():
            for name, tensor in _scaled(mean, thetas[expert]).items():
                view.expert(expert)[name].copy_(tensor)

    learned = [theta for own in thetas.values() for theta in own.values()]
    _fit(suspect, learned, put_in_place, clean, context)
    put_in_place()
    _detach(suspect.module)
    each = sum(theta.numel() for theta in thetas[experts[0]].values())
    return f"its weights are the mean of its siblings', scaled by {each:,} numbers learned on clean"


def _ones(mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stand-ins that change nothing, of the width of the maps that they scale."""
    inner, width = mean["up_proj"].shape
    sizes = {"gate_proj": width, "up_proj": width, "down_proj": inner}
    device = mean["up_proj"].device
    return {
        name: torch.ones(size, device=device, requires_grad=True)
        for name, size in sizes.items()
        if name in mean
    }


def _scaled(mean: Mapping[str, Tensor], thetas: _Thetas) -> dict[str, Tensor]:
    """Weights with the stand-ins multiplied into their columns, (out, in); biases stay."""
    return {
        name: tensor * thetas[name] if name in thetas else tensor for name, tensor in mean.items()
    }


def _detach(module: nn.Module) -> None:
    """Let weights that a step has written be weights again, and no results."""
    for parameter in module.parameters():
        if parameter.grad_fn is not None:
            parameter.detach_()


def _fit(
    suspect: TextSuspect,
    learned: Sequence[Tensor],
    put_in_place: Callable[[], None],
    clean: TextCleanSet,
    context: RunContext,
) -> None:
    rows = suspect.encode([text.text for text in clean.texts()])
    generator = context.generator("batches of the compressed expert")
    optimizer = torch.optim.Adam(learned, LEARNING_RATE)
    for step in range(STEPS):
        chosen = torch.randperm(len(rows), generator=generator)[:BATCH]
        put_in_place()
        loss = suspect.loss(rows[chosen], clean.labels[chosen])
        optimizer.zero_grad()
        if loss.requires_grad:  # else no token of the batch reached the expert
            loss.backward()
        optimizer.step()
        context.progress(Step("fit the compressed expert", step + 1, STEPS))
