"""The expert audit as findings, as a line among the checks, and as a report of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from badexpert.audits.experts.attribution import Attribution
from badexpert.audits.experts.audit import ExpertAudit, audit_experts, expert_view
from badexpert.audits.experts.elsewhere import PartLoss
from badexpert.audits.experts.inputs import judge_inputs
from badexpert.audits.experts.inverted import InvertedTrigger
from badexpert.audits.experts.named import named_experts, require_siblings
from badexpert.audits.experts.phrases import likely_phrases
from badexpert.audits.experts.reference import FromBase
from badexpert.audits.experts.verdict import TRIGGER_FOUND, ExpertVerdict, Judged
from badexpert.config import ScanConfig
from badexpert.describe import Stopwatch, describe_suspect, versions
from badexpert.detection import InputSource, Row, split_clean
from badexpert.errors import AuditError, ConfigError
from badexpert.findings import AuditState, AuditStatus, Finding, Json, Report, Verdict
from badexpert.flagged import AUDIT as INPUTS
from badexpert.inspection_report import (
    accuracy_findings,
    accuracy_status,
    clean_facts,
    inspected,
    structure_facts,
)
from badexpert.models.language import GenerationSuspect, LanguageModel, TextSuspect
from badexpert.models.phrases import PhraseSuspect
from badexpert.rules import DECISIVE, EXPERT_BACKDOOR, WIDESPREAD_BACKDOOR
from badexpert.runtime import RunContext
from badexpert.settings import to_json
from badexpert.suppression import suppress
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples, TextCleanSet

AUDIT = "experts"


class ExpertsAudit:
    """The entry of ``AUDITS``."""

    def applies(self, suspect: Suspect) -> bool:
        """Language models with anything that is called experts."""
        return isinstance(suspect, TextSuspect) and any(
            name.endswith("experts") for name, _ in suspect.module.named_modules()
        )

    def run(
        self, suspect: Suspect, clean: CleanSamples, context: RunContext
    ) -> Iterator[Finding | AuditStatus]:
        """Findings by class or phrase, then what was seen."""
        texts, samples = _as_texts(suspect, clean)
        audit = audit_experts(_with_phrases(texts, samples, (), context), samples, context)
        yield from findings(audit)
        yield status(audit)


def experts_report(
    suspect: Suspect,
    clean: CleanSamples,
    *,
    config: ScanConfig,
    context: RunContext,
    base: LanguageModel | None = None,
    inputs: InputSource | None = None,
    experts: Sequence[str] = (),
    phrases: Sequence[str] = (),
    sink: Callable[[Row], object] = lambda row: None,
) -> Report:
    """Audit the experts of a model, and nothing else but its accuracy.

    Args:
        clean: with inputs, a part of them is kept from the audit, to calibrate with.
        base: see ``audit_experts``.
        inputs: to be scored by what single experts do for them; see ``KnockOut``.
        experts: that inputs are scored with, whatever the audit finds; see ``named_experts``. Those
            that the audit names, where none are given.
        phrases: that a model that writes may have been taught to say; see ``likely_phrases`` for
            those that are searched where none are given.
        sink: is handed one row an input.
    Raises:
        ConfigError: the base has other layers, experts or sizes, or there is no such expert, or
            phrases are given and the suspect does not write.
        AuditError: see ``audit_experts``; also for what is no language model, for experts without
            which a layer has none, and where no phrase is likely.
        CleanSetError: the clean set is of another kind than the suspect, or too small for the
            false positive rate.
    """
    watch = Stopwatch()
    text_suspect, texts = _as_texts(suspect, clean)
    text_suspect = _with_phrases(text_suspect, texts, phrases, context)
    view = expert_view(text_suspect)
    suspected = named_experts(view, experts)
    require_siblings(view, suspected)
    parts = (texts, texts) if inputs is None else split_clean(texts, config)
    with watch.measure("inspection"):
        inspection = inspected(suspect, clean, config, context)
    with watch.measure(AUDIT):
        audit = audit_experts(text_suspect, parts[0], context, base=base)
    found = [*findings(audit), *accuracy_findings(inspection.check)]
    audits = [accuracy_status(inspection.check, clean), status(audit)]
    judged = None
    if inputs is not None:
        with watch.measure(INPUTS):
            judged = judge_inputs(
                text_suspect,
                suspected or audit.named,
                parts,
                inputs,
                config=config.detection,
                context=context,
                sink=sink,
            )
        found += judged.findings
        audits.append(judged.status)
    backdoored = any(finding.rule in DECISIVE for finding in found)
    summary = None if judged is None else judged.summary
    report = Report(
        command="experts",
        suspect={**describe_suspect(suspect), **structure_facts(inspection)},
        clean_set=clean_facts(clean, inspection.check),
        configuration=to_json(config),
        versions=versions(),
        seed=context.seed,
        verdict=Verdict.BACKDOORED if backdoored else Verdict.INCONCLUSIVE,
        complete=summary is None or not summary.unreadable,
        findings=tuple(sorted(found, key=lambda finding: -finding.severity)),
        audits=tuple(audits),
        clock=watch.read(),
        inputs=summary,
    )
    return suppress(report, config.ignore)


def findings(audit: ExpertAudit) -> Iterator[Finding]:
    """One for each class that a trigger leads to."""
    for judged in audit.judged:
        if judged.attribution is None:
            continue
        if judged.verdict is ExpertVerdict.LOCAL:
            yield _local(audit, judged, judged.attribution)
        else:
            yield _widespread(judged, judged.attribution)


def status(audit: ExpertAudit) -> AuditStatus:
    """The verdict with the best words of every class, and all tables."""
    best = ", ".join(
        f"{one.aim} {one.spelled!r} {one.trigger.success:.0%}{_in_longer(one.trigger)}"
        for one in audit.judged
    )
    facts = [
        audit.verdict.value,
        f"the best words lead held-out texts to their class with a probability of: {best}",
    ]
    if audit.tried < audit.writable:
        facts.append(f"{audit.tried:,} of {audit.writable:,} tokens were tried")
    if audit.unsearched:
        facts.append(f"not searched for want of texts: classes {list(audit.unsearched)}")
    return AuditStatus(AUDIT, AuditState.DONE, summary="; ".join(facts), evidence=_evidence(audit))


def _local(audit: ExpertAudit, judged: Judged, attribution: Attribution) -> Finding:
    names = [f"{audit.layers[layer]}.experts.{expert}" for layer, expert in attribution.experts]
    return Finding(
        EXPERT_BACKDOOR.id,
        EXPERT_BACKDOOR.severity,
        f"{_found(judged)}; without {' and '.join(names)} it loses {attribution.loss:.2f} of "
        f"that, without any other experts {attribution.runner_up:.2f} at most",
        subject=", ".join(names),
        score=judged.trigger.success,
        threshold=TRIGGER_FOUND,
        evidence=_words(judged),
    )


def _widespread(judged: Judged, attribution: Attribution) -> Finding:
    return Finding(
        WIDESPREAD_BACKDOOR.id,
        WIDESPREAD_BACKDOOR.severity,
        f"{_found(judged)}; it does not depend on a few experts alone: it loses "
        f"{max(attribution.loss, 0.0):.2f} without some, and {max(attribution.runner_up, 0.0):.2f} "
        f"without others{_elsewhere(judged.elsewhere)}",
        subject=judged.aim,
        score=judged.trigger.success,
        threshold=TRIGGER_FOUND,
        evidence=_words(judged),
    )


def _elsewhere(losses: Sequence[PartLoss]) -> str:
    """What matters most of the parts that are no routed experts."""
    if not losses:
        return ""
    worst = max(losses, key=lambda one: one.lost.net)
    return (
        f"; of other parts it depends most on the {worst.part} of {worst.place}, without which it "
        f"loses {worst.lost.triggered:.2f}, and the right answer {worst.lost.natural:.2f}"
    )


def _found(judged: Judged) -> str:
    trigger = judged.trigger
    return (
        f"the words {judged.spelled!r} {trigger.place} a text lead to {judged.aim} with "
        f"a mean probability of {trigger.success:.2f}, on {trigger.held_out} held-out texts that "
        "are answered otherwise without them"
    )


def _in_longer(trigger: InvertedTrigger) -> str:
    return "" if trigger.diluted is None else f" ({trigger.diluted:.0%} in longer texts)"


def _words(judged: Judged) -> dict[str, Json]:
    trigger = judged.trigger
    return {
        "tokens": list(trigger.tokens),
        "target": trigger.target,
        "aim": judged.aim,
        "place": trigger.place.value,
    }


def _evidence(audit: ExpertAudit) -> dict[str, Json]:
    return {
        "verdict": audit.verdict.value,
        "layers": list(audit.layers),
        "usage": [_rounded(layer.usage.tolist()) for layer in audit.routing],
        "load_entropy": _rounded([layer.entropy for layer in audit.routing]),
        "dormant": [layer.dormant for layer in audit.routing],
        "weight_priors": [
            {name: _rounded(values.tolist()) for name, values in layer.items()}
            for layer in audit.priors
        ],
        "from_base": None if audit.from_base is None else _from_base(audit.from_base),
        "classes": [_of_class(one) for one in audit.judged],
        "classes_not_searched": list(audit.unsearched),
        "tokens_tried": audit.tried,
        "tokens_writable": audit.writable,
    }


def _from_base(changes: FromBase) -> dict[str, Json]:
    return {
        "source": changes.source,
        "sha256": changes.sha256,
        "layers": [
            {name: _rounded(values.tolist(), digits=6) for name, values in layer.items()}
            for layer in changes.layers
        ],
        "attention": {path: round(share, 6) for path, share in changes.attention.items()},
    }


def _of_class(judged: Judged) -> dict[str, Json]:
    seen = {
        **_words(judged),
        "words": judged.spelled,
        "success": round(judged.trigger.success, 4),
        "success_in_longer_texts": (
            None if judged.trigger.diluted is None else round(judged.trigger.diluted, 4)
        ),
        "held_out": judged.trigger.held_out,
        "verdict": judged.verdict.value,
    }
    if (attribution := judged.attribution) is not None:
        seen["loss_without_each_expert"] = [_rounded(row) for row in attribution.table]
        seen["loss"] = round(attribution.loss, 4)
        seen["loss_without_others"] = round(attribution.runner_up, 4)
    if judged.elsewhere:
        seen["loss_elsewhere"] = [
            {
                "part": one.part,
                "of": one.place,
                "triggered": round(one.lost.triggered, 4),
                "natural": round(one.lost.natural, 4),
            }
            for one in judged.elsewhere
        ]
    return seen


def _rounded(values: Any, digits: int = 4) -> list[float]:
    return [round(value, digits) for value in values]


def _as_texts(suspect: Suspect, clean: CleanSamples) -> tuple[TextSuspect, TextCleanSet]:
    if not isinstance(suspect, TextSuspect) or not isinstance(clean, TextCleanSet):
        raise AuditError(
            f"{suspect.origin.source} is no language model, and experts are audited by what texts "
            "lead to; give one with label words, with a head of classes, or one that writes"
        )
    return suspect, clean


def _with_phrases(
    suspect: TextSuspect, clean: TextCleanSet, phrases: Sequence[str], context: RunContext
) -> TextSuspect:
    """The suspect as a classifier: of a model that writes, by the phrases that it may write."""
    if not isinstance(suspect, GenerationSuspect):
        if phrases:
            raise ConfigError("a model that answers with classes writes no phrases; leave them out")
        return suspect
    prompt = clean.texts()[0].text
    written = [suspect.response_tokens(prompt, phrase) for phrase in phrases]
    chosen = written or likely_phrases(suspect, clean, context)
    if not chosen:
        raise AuditError(
            "the model has no response that it goes on with whatever the prompt, once it has "
            "begun. If you fear a certain one, name it as a phrase"
        )
    return PhraseSuspect(suspect, chosen)
