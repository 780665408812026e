"""From a suspect and some clean samples to a bundle: the suspect with its tuned copies."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn

from badexpert.batchnorm import has_batch_norm
from badexpert.config import FULL, LOW_RANK, Copies, ExtractionConfig
from badexpert.errors import AuditError, CleanSetError, ConfigError
from badexpert.extraction.adaptive import tune_shifted, tune_spread
from badexpert.extraction.auxiliary import tune_auxiliary, tune_distilled
from badexpert.extraction.bundle import Bundle, graph_of, split_suspect
from badexpert.extraction.comparison import (
    AUXILIARIES,
    AUXILIARY,
    DISTANCE,
    DISTILLED,
    EXPERTS,
    SHIFTED,
    SPREAD,
    SUSPECT,
    Views,
)
from badexpert.extraction.features import Features, compute_features
from badexpert.extraction.gaussian import TEXT_PLACES, Gaussian, find_gaussian
from badexpert.extraction.low_rank import note_of_what_stays, with_updates
from badexpert.extraction.memory import choose_copies
from badexpert.extraction.paper import tune_auxiliary_as_published, tune_expert_as_published
from badexpert.extraction.record import Record, Scale
from badexpert.extraction.routers import note_of_unknown_routers
from badexpert.extraction.samples import CANDIDATES, samples_of, with_strangers
from badexpert.extraction.views import views_of
from badexpert.extraction.watch import Tuned, Watch, watch_over
from badexpert.models.answering import CLASSES
from badexpert.models.text_networks import LastTokenNetwork, TextNetwork
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import RunContext, Step
from badexpert.split import WHOLE, Cut
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples

logger = logging.getLogger(__name__)

MIN_TUNED = 20
MIN_WATCHED = 10
NEAR_CHANCE = 0.1
"""A suspect with less than this accuracy above chance has no normal function to forget."""


def extract(
    suspect: Suspect,
    fit: CleanSamples,
    *,
    config: ExtractionConfig | None = None,
    context: RunContext | None = None,
) -> Bundle:
    """Extract the backdoor functionality of a suspect.

    Args:
        suspect: is not changed.
        fit: clean samples to tune on and to watch; keep those for calibration apart.
    Raises:
        CleanSetError: too few samples, or of a kind that the suspect does not take.
        ConfigError: the paper's settings are for images, and the suspect reads texts.
        AuditError: the suspect is no better than chance on them, or tuning diverged.
    Source: Xie et al., ICLR 2024, arXiv:2308.12439.
    Departs: see ``extraction.adaptive``.
    """
    config = config if config is not None else ExtractionConfig()
    context = context if context is not None else RunContext()
    suspect.to(context.device)
    copies, memory = _kind_of_copies(suspect, config)
    halves = _cut_up(suspect, config)
    trunk, tail, notes = halves.trunk, halves.tail, memory + halves.notes
    context.progress(Step("clean samples", 0, None, "; ".join(notes)))
    samples = samples_of(suspect, fit, context)
    tuned_on, held_out = (
        with_strangers(suspect, part, context.generator("strangers"))
        for part in _apart(samples, config.watch, context)
    )
    watched = compute_features(trunk, held_out, context.device)
    watch = watch_over(tail, watched, suspect.num_classes or CANDIDATES, context.device)
    if watch.accuracy <= watch.chance + NEAR_CHANCE * (1 - watch.chance):
        raise AuditError(
            f"the suspect gets {watch.accuracy:.1%} of the watched clean samples right, chance "
            f"being {watch.chance:.1%}: there is no normal function to forget. Check "
            "preprocessing and labels with 'badexpert inspect'"
        )
    start = tail if copies == FULL else with_updates(tail, context.generator("updates"))
    fitted = compute_features(trunk, tuned_on, context.device)
    tuned = _tune_all(trunk, start, tuned_on, fitted, watch, config, context)
    notes += fit.gaps + tuple(_SHORTFALLS[part] for part, copy in tuned.items() if not copy.reached)
    tails = {SUSPECT: tail, **{part: copy.tail for part, copy in tuned.items()}}
    logits = {part: watched.through(copy, context.device) for part, copy in tails.items()}
    looks = {
        part: suspect.answering.log_odds(scores, watch.answers) for part, scores in logits.items()
    }
    gaussian, distances = _gaussian(halves, fitted, watch)
    seen = Views(watch.answers, looks, watched.values, distances).suspicions()
    record = Record.of(
        suspect,
        cut=halves.cut,
        copies=copies,
        settings=config,
        seed=context.seed,
        clean_digest=fit.digest(),
        samples={"tuned": len(tuned_on), "watched": len(watched)},
        clean_accuracy={part: watched.accuracy_of(scores) for part, scores in logits.items()},
        scales={
            part: Scale.of(values, low_counts=part != DISTANCE) for part, values in seen.items()
        },
        trajectories={part: copy.trajectory for part, copy in tuned.items()},
        notes=notes,
    )
    for note in notes:
        logger.warning(note)
    return Bundle(suspect, record, trunk, tails, gaussian=gaussian)


def _kind_of_copies(suspect: Suspect, config: ExtractionConfig) -> tuple[Copies, tuple[str, ...]]:
    """Whether copies are full, and of a language model what to say about it.

    Raises:
        ConfigError: the settings are for the other kind of suspect.
    """
    if isinstance(suspect, VisionSuspect):
        if config.copies == LOW_RANK:
            raise ConfigError(
                "extraction.copies = 'low-rank' is for language models, and the suspect takes "
                "images; leave it out. tail_share says how much of the network is copied"
            )
        return FULL, ()
    if config.method == "paper":
        raise ConfigError(
            "extraction.method = 'paper' has settings for images only, and the suspect reads "
            "texts; use 'adaptive'"
        )
    most = len(EXPERTS + AUXILIARIES)
    kind, said = choose_copies(suspect.network, most, config.copies, suspect.device)
    stays = note_of_what_stays(suspect.network) if kind == LOW_RANK else ()
    return kind, (said, *stays)


class _Halves(NamedTuple):
    """Where a suspect is cut, what comes of it, what its last layer takes, what to say."""

    cut: Cut
    trunk: nn.Module
    tail: nn.Module
    last_places: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _cut_up(suspect: Suspect, config: ExtractionConfig) -> _Halves:
    if not isinstance(suspect, VisionSuspect):
        places = TEXT_PLACES if isinstance(suspect.network, LastTokenNetwork) else ()
        notes = note_of_unknown_routers(suspect.network)
        return _uncut(suspect, notes)._replace(last_places=places)
    if config.method == "paper":
        return _uncut(suspect, ())
    try:
        graph = graph_of(suspect)
    except AuditError as error:
        note = f"full copies are tuned, and an input costs several passes: {error}"
        return _uncut(suspect, (note,))
    share = config.tail_share
    cut = graph.default_cut() if share is None else graph.at_share(share)
    return _Halves(cut, *graph.split(cut), graph.last_places(cut))


def _uncut(suspect: Suspect, notes: tuple[str, ...]) -> _Halves:
    return _Halves(WHOLE, *split_suspect(suspect, WHOLE), notes=notes)


def _gaussian(
    halves: _Halves, fit: Features, watch: Watch
) -> tuple[Gaussian | None, Tensor | None]:
    """Clean samples to compare with and the watched ones' distances, where there are places."""
    if not halves.last_places:
        return None, None
    return find_gaussian(halves.tail, halves.cut.node, halves.last_places, fit, watch)


def _apart(features: Features, share: float, context: RunContext) -> tuple[Features, Features]:
    watched = max(round(share * len(features)), MIN_WATCHED)
    if len(features) - watched < MIN_TUNED:
        raise CleanSetError(
            f"{len(features)} clean samples to tune with, {watched} of them to watch, leave "
            f"{max(len(features) - watched, 0)}; at least {MIN_TUNED} must be left, and a few "
            f"hundred are better. Add samples, or lower watch={share:g}"
        )
    order = torch.randperm(len(features), generator=context.generator("watch"))
    return features.where(order[watched:]), features.where(order[:watched])


def _tune_all(
    trunk: nn.Module,
    tail: nn.Module,
    samples: Features,
    fit: Features,
    watch: Watch,
    config: ExtractionConfig,
    context: RunContext,
) -> dict[str, Tuned]:
    if config.method == "paper":
        return _tune_as_published(tail, samples, watch, config, context)
    tuned = {SHIFTED: tune_shifted(tail, fit, watch, context)}
    # A response has no wrong ones to be spread over but the stranger's, which is shifted to.
    if fit.answering is CLASSES and not has_batch_norm(tail):
        tuned[SPREAD] = tune_spread(tail, fit, watch, context)
    views = fit if isinstance(tail, TextNetwork) else views_of(trunk, tail, samples, fit, context)
    tuned[AUXILIARY] = tune_auxiliary(tail, views, watch, context)
    tuned[DISTILLED] = tune_distilled(tail, views, watch, context)
    return tuned


def _tune_as_published(
    network: nn.Module,
    samples: Features,
    watch: Watch,
    config: ExtractionConfig,
    context: RunContext,
) -> dict[str, Tuned]:
    classes, paper = watch.num_classes, config.paper
    expert = tune_expert_as_published(network, samples, classes, paper, context)
    auxiliary = tune_auxiliary_as_published(network, samples, paper, context)
    return {
        SHIFTED: Tuned(expert, (), reached=True),
        AUXILIARY: Tuned(auxiliary, (), reached=True),
    }


_SHORTFALLS = {
    SHIFTED: "the suspect did not forget its function under shifted labels; that expert is weak",
    SPREAD: "the suspect did not forget its function under spread labels; that expert is weak",
    AUXILIARY: "no learning rate gave a working auxiliary; the suspect stands in for it",
    DISTILLED: "no learning rate gave a working distilled auxiliary; the suspect stands in for it",
}
