"""Where a backdoor seems to live that is in no single expert: shared experts, attention.

A backdoor that needs no expert still needs attention, which carries the trigger to the last token.
So what is lost without a layer's attention is a place to look first; that it is lost with the
update alone taken back says more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from badexpert.audits.experts.knockout import Knockout, Lost
from badexpert.audits.experts.reference import attention_pairs
from badexpert.audits.experts.rerun import Ablation
from badexpert.audits.experts.routing import by_length
from badexpert.models.language import LanguageModel, TextSuspect
from badexpert.runtime import RunContext
from moe_core.attention_blocks import (
    answering,
    attention_blocks,
    averaging,
    has_updates,
    reverted,
    without_updates,
)

ALL = "all layers"


@dataclass(frozen=True)
class PartLoss:
    """What a trigger loses without a part of the model that is no routed expert.

    Attributes:
        part: ``shared expert`` answers 0; ``attention`` answers each token with its mean over clean
            texts; ``attention update`` is what LoRA, or training since the base, added to it.
        place: path of the module, or ``ALL``.
        lost: see ``Lost``.
    """

    part: str
    place: str
    lost: Lost


def lost_elsewhere(
    knockout: Knockout, clean: Tensor, base: LanguageModel | None, context: RunContext
) -> tuple[PartLoss, ...]:
    """Take away shared experts and attention, layer by layer.

    Args:
        clean: rows of tokens, (rows, tokens) int64, for the mean answers of attention.
        base: see ``audit_experts``.
    """
    suspect = knockout.suspect
    attention = attention_blocks(suspect.module)
    parts = [
        *_shared(knockout),
        *_attention(suspect, attention, clean),
        *_updates(attention, {} if base is None else attention_pairs(suspect.module, base)),
    ]
    losses = knockout.lost([ablation for _, _, ablation in parts], context)
    return tuple(
        PartLoss(part, place, lost) for (part, place, _), lost in zip(parts, losses, strict=True)
    )


_Part = tuple[str, str, Ablation]


def _shared(knockout: Knockout) -> Iterator[_Part]:
    view = knockout.view
    for layer in view.shared():
        name = view.names[layer]
        yield "shared expert", name, Ablation((name,), partial(view.without_shared, [layer]))


def _attention(
    suspect: TextSuspect, attention: dict[str, nn.Module], clean: Tensor
) -> Iterator[_Part]:
    with averaging(attention.values()) as means, torch.no_grad():
        for rows in by_length(clean):
            suspect.logits(rows)
    for (path, block), mean in zip(attention.items(), means, strict=True):
        yield "attention", path, Ablation((path,), partial(answering, block, mean.mean_D))


def _updates(
    attention: dict[str, nn.Module], pairs: dict[str, tuple[nn.Module, nn.Module]]
) -> Iterator[_Part]:
    """Of each layer and of all: what a low-rank update adds, or else what became of the base."""
    if updated := [path for path, block in attention.items() if has_updates(block)]:
        for paths in _each_and_all(updated):
            blocks = [attention[path] for path in paths]
            yield _update(paths, partial(without_updates, blocks))
    elif pairs:
        for paths in _each_and_all(list(pairs)):
            yield _update(paths, partial(reverted, dict(pairs[path] for path in paths)))


def _update(paths: list[str], apply: Callable[[], AbstractContextManager[object]]) -> _Part:
    place = paths[0] if len(paths) == 1 else ALL
    return "attention update", place, Ablation(tuple(paths), apply)


def _each_and_all(paths: list[str]) -> list[list[str]]:
    each = [[path] for path in paths]
    return [*each, paths] if len(paths) > 1 else each
