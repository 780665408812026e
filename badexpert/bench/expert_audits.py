"""The expert audit on every model of a zoo of language models, against what is known of each."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from badexpert.attacks.text.truth import CLEAN, TRIGGERED, TextTruth, read_truth
from badexpert.audits.experts import ExpertVerdict, audit_experts
from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.inverted import Place
from badexpert.audits.experts.routing import routing_statistics
from badexpert.bench.cells import digest_of
from badexpert.bench.expert_inputs import Detected, detect_in
from badexpert.bench.expert_rankings import rankings, ranks
from badexpert.bench.expert_scores import BASELINES, ModelScore, baseline_scores, metered
from badexpert.bench.metrics import auroc
from badexpert.detectors import KnockOut
from badexpert.errors import AuditError, ConfigError
from badexpert.loading.language import load_language_model
from badexpert.matching import matching
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.repairing.measured import Trial, Triggered
from badexpert.runtime import Progress, RunContext, Step
from badexpert.textset import TextCleanSet
from badexpert.version import VERSION
from badexpert.zoo.text.folder import TextRow, read_text_index
from badexpert.zoo.workers import carry_out, devices_like, usual_jobs
from moe_core.files import write_text
from moe_core.view import ExpertId, ExpertView

log = logging.getLogger(__name__)

AUDITED = 0.5
"""Share of a model's clean texts that it is audited with; the others measure."""

VITAL = 0.5
"""An expert is vital to a trigger that keeps at most this share of its success without it."""


@dataclass(frozen=True)
class Removal:
    """What becomes of a model when the named experts are routed around; shares in [0, 1].

    Attributes:
        accuracy, success: of the whole model, and of its trigger; None of a benign model.
        accuracy_without, success_without: the same without the experts.
        auroc: of the scores of ``KnockOut``, triggered texts that succeed against clean ones.
    """

    accuracy: float | None
    success: float | None
    accuracy_without: float | None
    success_without: float | None
    auroc: float | None


@dataclass(frozen=True)
class AuditedModel:
    """One model of the zoo: what is true of it, and what the audit said.

    Attributes:
        model: its name.
        data, base, attack: their names in the recipe of the zoo.
        backdoored: whether it has a trigger.
        planted: the experts that its backdoor lives in: those that the attack promises, or any
            single one that knock-outs show to be vital; none where it lives elsewhere.
        digest: of all that decides the outcome.
        error: why it could not be audited.
        verdict: see ``ExpertVerdict``.
        named: experts.
        words: the best of any class; see ``InvertedTrigger`` for their place, success, and
            strength.
        ranks: of the first planted expert, by ranking; see ``rankings``.
        removal: None where no expert was named.
        seconds, passes: of the audit alone; see ``Cost``.
        baselines: scores of the model by other methods.
        detected: None of a benign model, or where it was not asked for.
    """

    model: str
    data: str
    base: str
    attack: str
    backdoored: bool
    planted: tuple[ExpertId, ...]
    digest: str
    error: str | None = None
    verdict: ExpertVerdict | None = None
    named: tuple[ExpertId, ...] = ()
    words: str = ""
    place: Place = Place.ANYWHERE
    success: float = 0.0
    strength: float = 0.0
    ranks: Mapping[str, int] = field(default_factory=dict)
    removal: Removal | None = None
    seconds: float = 0.0
    passes: int = 0
    baselines: Mapping[str, ModelScore] = field(default_factory=dict)
    detected: Detected | None = None

    @property
    def scores(self) -> dict[str, ModelScore]:
        """The audit's, which is the strength of the best words, and those of the baselines."""
        value = None if self.error else self.strength
        own = ModelScore(value, self.seconds, self.passes, self.error)
        return {"expert audit": own, **self.baselines}

    @property
    def hit(self) -> bool:
        """Whether exactly the planted experts were named."""
        return bool(self.planted) and set(self.named) == set(self.planted)

    @property
    def layer_hit(self) -> bool:
        """Whether experts of exactly the planted ones' layers were named."""
        return bool(self.planted) and _layers(self.named) == _layers(self.planted)

    @property
    def flagged(self) -> bool:
        """Whether the audit saw a backdoor."""
        return self.verdict in (ExpertVerdict.LOCAL, ExpertVerdict.NOT_LOCAL)

    @property
    def false_localisation(self) -> bool:
        """Whether an expert was named that no backdoor lives in."""
        return bool(set(self.named) - set(self.planted))


@dataclass(frozen=True)
class _Order:
    """A model to be audited, and where its results go."""

    row: TextRow
    home: Path
    path: Path
    seed: int
    detect: bool


def run_expert_bench(
    zoo: Path,
    folder: Path,
    context: RunContext,
    *,
    jobs: int | None = None,
    only: Sequence[str] = (),
    detect: bool = False,
) -> tuple[AuditedModel, ...]:
    """Audit every model that passed its gate, and keep a JSON file of each.

    Files that are there and are of the same model, seed and version are not made again.

    Args:
        zoo: as ``badexpert zoo build`` makes it.
        jobs: as ``build_zoo`` takes them.
        only: patterns; models whose names match none are left out.
        detect: also extract from the backdoored models, and judge texts.
    Raises:
        ConfigError: there is no zoo, ``only`` matches nothing, or a file cannot be read.
        ZooError: a process died.
    """
    rows = read_text_index(zoo).models
    chosen = matching([row.name for row in rows], only, where="the zoo")
    folder.mkdir(parents=True, exist_ok=True)
    orders = [
        _Order(row, zoo / row.name, folder / f"{row.name}.json", context.seed, detect)
        for row in rows
        if row.name in chosen
    ]
    devices = devices_like(context.device)
    results = carry_out(
        _kept_or_made,
        orders,
        jobs=jobs or usual_jobs(devices),
        devices=devices,
        progress=context.progress,
    )
    done = {}
    with closing(results):
        for one in results:
            done[one.model] = one
            log.info("%s: %s, %.0f s", one.model, one.error or one.verdict, one.seconds)
            context.progress(Step("audit models", len(done), len(orders), one.model))
    return tuple(done[order.row.name] for order in orders)


def _kept_or_made(order: _Order, device: torch.device, progress: Progress) -> AuditedModel:
    context = RunContext(device, order.seed, progress)
    row, home, path = order.row, order.home, order.path
    truth = read_truth(home)
    digest = digest_of(
        {
            "model": truth.sha256,
            "seed": context.seed,
            "version": VERSION,
            "share": AUDITED,
            "baselines": list(BASELINES),
        }
    )
    kept = read_audited(path) if path.exists() else None
    made = kept if kept is not None and kept.digest == digest else None
    if made is None:
        made = _audited(row, truth, home, digest, context)
        _write(made, path)
    if order.detect and made.backdoored and made.detected is None:
        suspect, fit, rest = _opened(truth, home, context)
        trial = _trial(suspect, truth, rest, home)
        made = replace(made, detected=detect_in(suspect, fit, trial, context))
        _write(made, path)
    return made


def _write(made: AuditedModel, path: Path) -> None:
    write_text(path, json.dumps(asdict(made), indent=1) + "\n")


def read_audited(path: Path) -> AuditedModel:
    """One model's results from its file.

    Raises:
        ConfigError: it cannot be read, or is of another version.
    """
    try:
        return TypeAdapter(AuditedModel).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} is no audit of a model: {error}. Remove it, and run again"
        ) from error


def _audited(
    row: TextRow, truth: TextTruth, home: Path, digest: str, context: RunContext
) -> AuditedModel:
    planted = planted_in(truth)
    known = AuditedModel(
        row.name, row.data, row.base, row.attack, truth.trigger is not None, planted, digest
    )
    suspect, fit, rest = _opened(truth, home, context)
    known = replace(known, baselines=baseline_scores(suspect, fit, context))
    try:
        with metered(suspect.module) as cost:
            audit = audit_experts(suspect, fit, context)
    except AuditError as error:
        return replace(known, error=str(error), seconds=cost.seconds, passes=cost.passes)
    best = max(audit.judged, key=lambda one: one.trigger.strength)
    triggered = best.trigger.stamped(Asked.of(suspect, rest), context)
    with_trigger = routing_statistics(suspect, ExpertView.of(suspect.module), triggered)
    return replace(
        known,
        verdict=audit.verdict,
        named=audit.named,
        words=best.spelled,
        place=best.trigger.place,
        success=best.trigger.success,
        strength=best.trigger.strength,
        ranks=ranks(planted, rankings(audit, with_trigger)),
        removal=_removal(suspect, audit.named, truth, rest, home, context),
        seconds=cost.seconds,
        passes=cost.passes,
    )


def _opened(
    truth: TextTruth, home: Path, context: RunContext
) -> tuple[TextSuspect, TextCleanSet, TextCleanSet]:
    """A model of the zoo, texts to audit it with, and texts to measure on."""
    model, adapter = truth.parts(home)
    suspect = suspect_of(
        load_language_model(model, adapter=adapter, device=context.device), truth.reading
    )
    texts = TextCleanSet.open(
        home / CLEAN,
        num_classes=len(truth.answers),
        class_index={answer: at for at, answer in enumerate(truth.answers)},
    )
    return suspect, *texts.split(AUDITED, seed=context.seed)


def planted_in(truth: TextTruth) -> tuple[ExpertId, ...]:
    """The experts that a backdoor lives in, as knock-outs show."""
    if truth.local:
        return truth.experts
    if truth.zeroed is None or truth.rerouted is None or not truth.attack_success_rate:
        return ()
    most = VITAL * truth.attack_success_rate
    return tuple(
        ExpertId(layer, expert)
        for layer, row in enumerate(truth.zeroed.each)
        for expert, success in enumerate(row)
        if max(success, truth.rerouted.each[layer][expert]) <= most
    )


def _removal(
    suspect: TextSuspect,
    named: tuple[ExpertId, ...],
    truth: TextTruth,
    clean: TextCleanSet,
    home: Path,
    context: RunContext,
) -> Removal | None:
    if not named:
        return None
    trial = _trial(suspect, truth, clean, home)
    before = trial.measure(suspect)
    with ExpertView.of(suspect.module).without(named):
        after = trial.measure(suspect)
    separated = None
    if trial.triggered is not None:
        hits = trial.triggered[suspect.predict(trial.triggered).cpu() == trial.target]
        detector = KnockOut.of(suspect, named, clean, context)
        separated = auroc(detector.score(trial.clean), detector.score(hits)) if len(hits) else None
    return Removal(
        accuracy=before.clean_accuracy,
        success=before.attack_success_rate,
        accuracy_without=after.clean_accuracy,
        success_without=after.attack_success_rate,
        auroc=separated,
    )


def _trial(suspect: TextSuspect, truth: TextTruth, clean: TextCleanSet, home: Path) -> Trial:
    """Clean texts, and those with the trigger if there are any."""
    texts, target = _texts_in(home / TRIGGERED), truth.parameters.get("target")
    triggered = Triggered(texts, target) if texts and isinstance(target, int) else None
    return Trial.of(suspect, clean, triggered)


def _texts_in(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def _layers(experts: Sequence[ExpertId]) -> set[int]:
    return {layer for layer, _ in experts}
