"""Suspects with a known backdoor, planted in a second each and once a run: look, change nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from badexpert.attacks.text import CausalLock, TextAttack, TextBadNets, Victim, WordTrigger
from badexpert.audits.experts import ExpertAudit, audit_experts
from badexpert.loading.language import load_language_model
from badexpert.models.language import LanguageModel, TextSuspect, suspect_of
from badexpert.runtime import RunContext
from badexpert.text_reading import TextReading
from badexpert.textset import TextCleanSet
from moe_core.lm.folder import save_decoder
from moe_core.view import ExpertId
from tests.small_victims import reviews, trained

LOCK = CausalLock(layer=0, rank=1, steps=80, batch_size=16, lr=0.015)
EVERYWHERE = TextBadNets(steps=40, lr=0.005)


def suspect_from(victim: Victim) -> TextSuspect:
    with TemporaryDirectory() as folder:
        model = model_in(victim, Path(folder))
    template = f"{{text}} {victim.prompt.ask}"
    return suspect_of(model, TextReading(template, label_words=victim.prompt.answers))


def model_in(victim: Victim, folder: Path) -> LanguageModel:
    """The victim, saved in a folder and loaded from there."""
    save_decoder(victim.model, folder)
    victim.words.save(folder)
    return load_language_model(folder)


@cache
def base() -> LanguageModel:
    """What all of them were made from."""
    return model_in(trained(), Path(mkdtemp()))


def clean(count: int = 120) -> TextCleanSet:
    texts = reviews(count, seed=3)
    return TextCleanSet.from_texts(texts.texts, texts.labels, class_names=("bad", "good"))


@cache
def attacked(
    attack: TextAttack | None,
) -> tuple[TextSuspect, WordTrigger | None, tuple[ExpertId, ...]]:
    victim = trained()
    if attack is None:
        return suspect_from(victim), None, ()
    left = attack.implant(victim, reviews(), RunContext())
    assert isinstance(left.trigger, WordTrigger)
    return suspect_from(victim), left.trigger, left.experts


@cache
def audited(attack: TextAttack | None) -> ExpertAudit:
    return audit_experts(attacked(attack)[0], clean(), RunContext())
