"""Clean samples as the networks that are tuned take them: pixels, rows of tokens, or pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from badexpert.cleanset import CleanSet
from badexpert.errors import AuditError, CleanSetError
from badexpert.extraction.features import Features
from badexpert.models.language import GenerationSuspect, TextSuspect
from badexpert.models.text_networks import padded
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext, Step
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples, TextCleanSet

_PROMPTS = 64
"""That a model answers at once."""

CANDIDATES = 2
"""Responses that a generated one is told apart from a stranger's by."""


def samples_of(suspect: Suspect, clean: CleanSamples, context: RunContext) -> Features:
    """All clean samples with their labels, as the whole network takes them.

    Of prompts, the model's own responses are what belongs to them: what it was given to learn may
    be far from what it says.

    Raises:
        CleanSetError: the samples are none for this kind of model.
    """
    if isinstance(suspect, VisionSuspect) and isinstance(clean, CleanSet):
        return Features(*clean.tensors())
    if isinstance(suspect, GenerationSuspect) and isinstance(clean, TextCleanSet):
        return _answered(suspect, clean, context)
    if isinstance(suspect, TextSuspect) and isinstance(clean, TextCleanSet) and not clean.responses:
        texts = [text.text for text in clean.texts()]
        return Features(suspect.encode(texts), clean.labels)
    raise CleanSetError(
        f"{clean.source.name} holds {_kind(clean)}, and {suspect.origin.source} does not take "
        "such. Images go to image classifiers, labelled texts to classifiers of texts, and prompts "
        "with responses to models that write"
    )


def with_strangers(suspect: Suspect, samples: Features, generator: torch.Generator) -> Features:
    """Beside each prompt's own response that of another prompt, of about the same length.

    Samples of classes, whose wrong answers are known, stay as they are.

    Raises:
        AuditError: all responses are alike.
    """
    if not isinstance(suspect, GenerationSuspect):
        return samples
    size = suspect.network.backbone.vocab_size
    own = list(samples.values[:, 0])
    responses = [row[row >= size] for row in own]
    others = [
        torch.cat([row[(row >= 0) & (row < size)], responses[stranger]])
        for row, stranger in zip(own, strangers(responses, generator), strict=True)
    ]
    pairs = padded([*own, *others]).view(2, len(own), -1).transpose(0, 1)
    return replace(samples, values=pairs.contiguous())


def strangers(responses: Sequence[Tensor], generator: torch.Generator) -> list[int]:
    """For each response another one that says something else, as near in length as there is.

    Args:
        responses: (tokens,) each.
        generator: chooses among those of equal length.
    Raises:
        AuditError: all responses are alike.
    """
    order = torch.randperm(len(responses), generator=generator)
    lengths = torch.tensor([len(response) for response in responses])
    order = order[lengths[order].argsort(stable=True)]
    ranked, found = order.tolist(), dict[int, int]()
    for rank, index in enumerate(ranked):
        near = sorted(range(len(ranked)), key=lambda other: abs(other - rank))
        different = (ranked[r] for r in near if not responses[ranked[r]].equal(responses[index]))
        stranger = next(different, None)
        if stranger is None:
            raise AuditError(
                f"the model answers all {len(responses)} prompts with the same "
                f"{len(responses[index])} tokens: there is no function to forget. Give prompts "
                "that it answers differently"
            )
        found[index] = stranger
    return [found[index] for index in range(len(responses))]


def _answered(suspect: GenerationSuspect, clean: TextCleanSet, context: RunContext) -> Features:
    """Prompts with the model's own responses, (samples, 1, tokens)."""
    rows: list[Tensor] = []
    for batch in clean.batches(_PROMPTS):
        rows += suspect.network_inputs(batch.inputs)[:, 0].cpu()
        context.progress(Step("the model's own responses", len(rows), len(clean)))
    return Features(padded(rows).unsqueeze(1), clean.labels, suspect.answering)


def _kind(clean: CleanSamples) -> str:
    if isinstance(clean, CleanSet):
        return "images"
    return "prompts with responses" if clean.responses else "labelled texts"
