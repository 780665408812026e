"""The expert audit: invert a trigger for each class, then see without which experts it fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.attribution import attribute
from badexpert.audits.experts.clauses import best_clause
from badexpert.audits.experts.elsewhere import lost_elsewhere
from badexpert.audits.experts.inversion import Search, prepare_search
from badexpert.audits.experts.inverted import HELD_OUT, InvertedTrigger, Place, counted, measured
from badexpert.audits.experts.knockout import Knockout
from badexpert.audits.experts.reference import FromBase, changes_from
from badexpert.audits.experts.relaxed import best_together
from badexpert.audits.experts.routing import RoutingStatistics, routing_statistics
from badexpert.audits.experts.verdict import ExpertVerdict, Judged, is_trigger, overall
from badexpert.audits.experts.weights import weight_priors
from badexpert.errors import AuditError
from badexpert.models.language import LanguageModel, TextSuspect
from badexpert.models.phrases import PhraseSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet
from moe_core.view import ExpertId, ExpertView


@dataclass(frozen=True, eq=False)
class ExpertAudit:
    """All that the audit saw.

    Attributes:
        layers: path of each Mixture-of-Experts layer.
        routing: of clean texts, by layer.
        priors: see ``weight_priors``.
        judged: the classes that could be searched.
        unsearched: the classes that could not.
        tried, writable: tokens that were tried, of those that a person can write.
        from_base: see ``changes_from``; None where no base was given.
    """

    layers: tuple[str, ...]
    routing: tuple[RoutingStatistics, ...]
    priors: tuple[dict[str, Tensor], ...]
    judged: tuple[Judged, ...]
    unsearched: tuple[int, ...]
    tried: int
    writable: int
    from_base: FromBase | None = None

    @property
    def verdict(self) -> ExpertVerdict:
        """About the model."""
        exhaustive = not self.unsearched and self.tried == self.writable
        return overall([one.verdict for one in self.judged], exhaustive=exhaustive)

    @property
    def named(self) -> tuple[ExpertId, ...]:
        """All experts that a backdoor lives in, of any class."""
        local = (one.attribution for one in self.judged if one.verdict is ExpertVerdict.LOCAL)
        return tuple(sorted({expert for found in local if found for expert in found.experts}))


def audit_experts(
    suspect: TextSuspect,
    clean: TextCleanSet,
    context: RunContext,
    *,
    base: LanguageModel | None = None,
) -> ExpertAudit:
    """Look for a trigger into each class, and for the experts that it needs.

    A trigger is one token or two anywhere in a text, or a clause in front of it.

    Args:
        suspect: a classifier of texts with Mixture-of-Experts layers, or a ``PhraseSuspect`` with
            them, whose phrases are searched; is not changed.
        clean: labelled texts, or prompts; half of them serve the search, half the measurement.
        base: that the suspect may have been made from. How experts changed is reported beside the
            verdict, and no part of it.
    Raises:
        ConfigError: the base has other layers, experts or sizes.
        AuditError: the experts cannot be looked into, the texts are not labelled, or no class
            could be searched.
        CleanSetError: there are fewer than 2 texts.
    Source: none is published. A trigger is inverted first and attributed by knock-out then, since
        an expert can lie dormant, or differ from its neighbours, for other reasons.
    """
    view = expert_view(suspect)
    from_base = None if base is None else changes_from(suspect.module, view, base)
    searching, measuring = clean.split(0.5, seed=context.seed_for("texts of the expert audit"))
    known, held_out = Asked.of(suspect, clean), Asked.of(suspect, measuring)
    search = prepare_search(Asked.of(suspect, searching), known, context)
    answers = suspect.predict(held_out.plain()).cpu()
    judged, unsearched = [], []
    for target in _targets(suspect, search.singles.shape[1]):
        trigger = _inverted(search, held_out, answers, target, context)
        if trigger is None:
            unsearched.append(target)
            continue
        judged.append(_judged(view, held_out, answers, trigger, base, context))
    if not judged:
        raise AuditError(
            f"no class could be searched with {len(clean)} texts: the suspect answers all alike, "
            "or all are of one class. Check how texts are put to it, or give other ones"
        )
    return ExpertAudit(
        layers=view.names,
        routing=routing_statistics(suspect, view, known.plain()),
        priors=weight_priors(view),
        judged=tuple(judged),
        unsearched=tuple(unsearched),
        tried=len(search.candidates),
        writable=search.writable,
        from_base=from_base,
    )


def _targets(suspect: TextSuspect, classes: int) -> range:
    """Classes that a trigger may lead to; that a model writes just anything is no aim."""
    return range(1 if isinstance(suspect, PhraseSuspect) else 0, classes)


def expert_view(suspect: TextSuspect) -> ExpertView:
    """The experts of a suspect.

    Raises:
        AuditError: it has none, or none that can be looked into.
    """
    try:
        view = ExpertView.of(suspect.module)
    except ValueError as error:
        raise AuditError(f"the experts cannot be audited: {error}") from error
    if all(layer.num_experts == 1 for layer in view.layers):
        raise AuditError("every layer has a single expert, so there is none to blame or to spare")
    return view


def _inverted(
    search: Search, held_out: Asked, answers: Tensor, target: int, context: RunContext
) -> InvertedTrigger | None:
    """The first trigger of a class that is found, or else the most successful words; None without
    texts."""
    chosen = counted(held_out, answers, target)
    if not len(chosen) or not search.reaches(target):
        return None
    texts, tried = held_out.part(chosen), []
    for tokens, place in _candidates(search, target, context):
        tried.append(measured(texts, target, tokens, place, context))
        if is_trigger(tried[-1]):
            return tried[-1]
    words = [one for one in tried if one.place is Place.ANYWHERE]
    return max(words, key=lambda one: one.success)


def _candidates(
    search: Search, target: int, context: RunContext
) -> Iterator[tuple[tuple[int, ...], Place]]:
    """What may be a trigger, the cheapest first; a pair is the best on few texts, so each of its
    words is tried, too."""
    pair = search.best(target)
    yield pair, Place.ANYWHERE
    if len(pair) > 1:
        yield from (((word,), Place.ANYWHERE) for word in dict.fromkeys(pair))
    yield best_together(search, target, context), Place.ANYWHERE
    if (clause := best_clause(search, target, context)) is not None:
        yield clause, Place.FRONT


def _natural(texts: Asked, target: int) -> Tensor:
    """Clean texts that a class is right for, (texts, tokens), maybe none.

    A phrase is right for none. There the model's own responses show what it loses at all.
    """
    if isinstance(texts.suspect, PhraseSuspect):
        return texts.suspect.answered(texts.rows[:HELD_OUT])
    own = (texts.labels == target).nonzero().flatten()[:HELD_OUT]
    return texts.part(own).plain() if len(own) else texts.plain()[:0]


def _judged(
    view: ExpertView,
    held_out: Asked,
    answers: Tensor,
    trigger: InvertedTrigger,
    base: LanguageModel | None,
    context: RunContext,
) -> Judged:
    spelled, aim = held_out.suspect.decode(trigger.tokens), held_out.suspect.named(trigger.target)
    if not is_trigger(trigger):
        return Judged(trigger, spelled, aim)
    others = held_out.part(counted(held_out, answers, trigger.target))
    triggered = trigger.stamped(others, context)
    natural = _natural(held_out, trigger.target)
    knockout = Knockout(held_out.suspect, view, triggered, natural, trigger.target, trigger.success)
    attribution = attribute(knockout, others.plain(), context)
    if attribution.local:
        return Judged(trigger, spelled, aim, attribution)
    elsewhere = lost_elsewhere(knockout, held_out.plain(), base, context)
    return Judged(trigger, spelled, aim, attribution, elsewhere)
