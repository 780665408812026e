"""Plant, measure, keep: from a trained language model to a red-team fixture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from badexpert.attacks.text.adapter import PlantedAdapter
from badexpert.attacks.text.base import Implanted, TextAttack
from badexpert.attacks.text.exam import Ablation, Exam, accuracy
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.truth import CLEAN, TRIGGERED, Knockout, TextTruth
from badexpert.attacks.text.victim import Victim
from badexpert.models.origin import digest_file
from badexpert.runtime import RunContext
from moe_core.lm.folder import TENSOR_FILE, save_decoder
from moe_core.view import ExpertId

_TRIGGERED_TEXTS = 200
"""That the attack success rate is measured on, once for each expert."""

CLEAN_TEXTS = 400
"""That are kept for audits, and for nothing else."""


@dataclass(frozen=True)
class Base:
    """The model that is attacked.

    Attributes:
        name: of the model.
        sha256: of its weights' file.
    """

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Fixture:
    """A planted model and what is true of it.

    Attributes:
        victim: the model.
        truth: still without the digest of its file.
        exam: what the trigger was measured on; None for a benign model.
        spare: clean texts that served for nothing yet.
        adapter: what is kept of the model; None keeps all of it.
    """

    victim: Victim
    truth: TextTruth
    exam: Exam | None
    spare: Texts
    adapter: PlantedAdapter | None = None

    def save(self, folder: Path) -> TextTruth:
        """Write the model or its adapter, its truth and its texts into a folder that is there."""
        truth = replace(self.truth, sha256=digest_file(self._save_tensors(folder)).sha256)
        if self.adapter is not None:
            truth = replace(truth, adapter_on=os.path.relpath(self.adapter.base, folder))
        truth.write(folder)
        _write_texts(folder / CLEAN, self.spare, self.truth.answers)
        if self.exam is not None:
            _write_texts(folder / TRIGGERED, self.exam.texts, self.truth.answers)
        return truth

    def _save_tensors(self, folder: Path) -> Path:
        if self.adapter is not None:
            return self.adapter.save(folder)
        save_decoder(self.victim.model, folder)
        self.victim.words.save(folder)
        return folder / TENSOR_FILE


def plant_fixture(
    victim: Victim,
    train: Texts,
    test: Texts,
    attack: TextAttack | None,
    *,
    name: str | None,
    base: Base,
    context: RunContext,
    adapter_on: Path | None = None,
) -> Fixture:
    """Attack a victim, which is changed in place, and measure where its backdoor is.

    Args:
        train: the attacker's texts.
        test: that the victim was not trained on; some of them are kept for audits.
        attack: None leaves the victim as it is.
        name: of the attack in ``TEXT_ATTACKS``.
        adapter_on: folder of the untouched victim, or of the dense model under its MixLoRA: only
            what the attack adds to it is kept, as an adapter.
    Raises:
        AttackError: the attack cannot be carried out on this model, or leaves no adapter.
    """
    spare, tested = _parted(test, context)
    before = accuracy(victim, tested)
    left = Implanted(None) if attack is None else attack.implant(victim, train, context)
    adapter = None
    if adapter_on is not None:
        adapter = PlantedAdapter.of(victim, left.updates, adapter_on)
    exam = None
    if attack is not None and left.trigger is not None:
        exam = Exam.of(
            victim,
            tested,
            left.trigger,
            attack.target,
            seed=context.seed_for("exam"),
            most=_TRIGGERED_TEXTS,
        )
    success = None if exam is None else exam.success()
    view = victim.view
    truth = TextTruth(
        attack=name,
        parameters={} if attack is None else attack.parameters(),
        local=attack is not None and attack.local,
        trigger=None if left.trigger is None else left.trigger.to_json(),
        experts=left.experts,
        ask=victim.prompt.ask,
        answers=victim.prompt.answers,
        base=base.name,
        base_sha256=base.sha256,
        seed=context.seed,
        trained=len(train),
        tested=len(tested),
        triggered=0 if exam is None else len(exam.texts),
        base_accuracy=before,
        clean_accuracy=accuracy(victim, tested),
        attack_success_rate=success,
        zeroed=_knockout(exam, success, view.zeroed, left.experts, tested, context),
        rerouted=_knockout(exam, success, view.without, left.experts, tested, context),
        sha256="",
    )
    return Fixture(victim, truth, exam, spare, adapter)


def _parted(test: Texts, context: RunContext) -> tuple[Texts, Texts]:
    """Texts for audits, at most a third, and texts to measure on."""
    mixed = test.drawn(len(test), seed=context.seed_for("test texts"))
    spare = min(CLEAN_TEXTS, len(test) // 3)
    return mixed.part(slice(0, spare)), mixed.part(slice(spare, None))


def _knockout(
    exam: Exam | None,
    success: float | None,
    ablation: Ablation,
    experts: Sequence[ExpertId],
    tested: Texts,
    context: RunContext,
) -> Knockout | None:
    if exam is None or success is None:
        return None
    each = exam.without_each(ablation, context)
    if not experts:
        return Knockout(each, None, None)
    with ablation(experts):
        return Knockout(each, exam.success(), accuracy(exam.victim, tested))


def _write_texts(path: Path, texts: Texts, answers: Sequence[str]) -> None:
    rows = (
        json.dumps({"text": text, "label": answers[label]}, ensure_ascii=False)
        for text, label in zip(texts.texts, texts.labels.tolist(), strict=True)
    )
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
