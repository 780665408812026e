"""What a model does with clean and with triggered texts, before and after a repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from badexpert.errors import AuditError, ConfigError
from badexpert.models.language import TextSuspect, is_text_classifier
from badexpert.sources.texts import TextSource, open_texts
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples, TextCleanSet
from moe_core.drop_in import DropIn


class Triggered(NamedTuple):
    """Texts that carry a trigger.

    Attributes:
        texts: none of them is of the target class by right.
        target: class that the trigger leads to.
    """

    texts: Sequence[str]
    target: int


class Measured(NamedTuple):
    """What a model does.

    Attributes:
        clean_accuracy: share of the clean texts that are answered rightly.
        attack_success_rate: share of the triggered texts that are answered with the target; None
            without such texts.
    """

    clean_accuracy: float
    attack_success_rate: float | None


@dataclass(frozen=True, eq=False)
class Trial:
    """Texts that a model and its repairs are asked, encoded once.

    Attributes:
        clean: rows of tokens.
        labels: of the clean texts.
        triggered: rows of tokens; None without such texts.
        target: class; ignored without triggered texts.
    """

    clean: Tensor
    labels: Tensor
    triggered: Tensor | None = None
    target: int = 0

    @classmethod
    def of(cls, suspect: TextSuspect, clean: TextCleanSet, triggered: Triggered | None) -> Trial:
        """Encode texts as the suspect is asked."""
        rows = suspect.encode([text.text for text in clean.texts()])
        if triggered is None:
            return cls(rows, clean.labels)
        return cls(rows, clean.labels, suspect.encode(triggered.texts), triggered.target)

    @property
    def num_triggered(self) -> int:
        """Texts that carry a trigger."""
        return 0 if self.triggered is None else len(self.triggered)

    def measure(self, suspect: TextSuspect) -> Measured:
        """Ask a model all texts."""
        right = suspect.predict(self.clean).cpu() == self.labels
        success = None
        if self.triggered is not None:
            success = (suspect.predict(self.triggered) == self.target).double().mean().item()
        return Measured(right.double().mean().item(), success)

    @torch.no_grad()
    def answers(self, suspect: TextSuspect) -> Tensor:
        """Scores of all texts, (texts, classes) fp32 on the CPU."""
        rows = [self.clean] if self.triggered is None else [self.clean, self.triggered]
        return torch.cat([suspect.logits(part).cpu() for part in rows])


def open_triggered(path: Path, target: str, suspect: Suspect) -> Triggered:
    """Texts with a trigger from a table. Those that are of the target class by right do not count.

    Args:
        path: JSON lines, CSV or parquet with ``text`` and maybe the true ``label``.
        target: name or index of the class that the trigger leads to.
    Raises:
        CleanSetError: the table cannot be read.
        ConfigError: the model has no such class.
        AuditError: no text counts, or the suspect is no classifier of texts.
    """
    suspect = classifier_of_texts(suspect)
    source, index = open_texts(path), _class_index(target, suspect)
    called = suspect.class_names[index] if suspect.class_names else target
    own = _label_of(called, index, source)
    counted = [
        text.text
        for at, text in source.read(range(len(source)))
        if source.labels is None or source.labels[at] != own
    ]
    if not counted:
        raise AuditError(f"all texts of {path} are of the class {target}; give others")
    return Triggered(counted, index)


def _label_of(name: str, index: int, source: TextSource) -> int | None:
    """How a table numbers a class of the model; None where none of its texts is of it."""
    if source.class_names is None:
        return index
    return source.class_names.index(name) if name in source.class_names else None


def classifier_of_texts(suspect: Suspect) -> TextSuspect:
    """A suspect whose repair can be measured, and written.

    Raises:
        AuditError: it is another kind of model.
    """
    if not is_text_classifier(suspect):
        raise AuditError(
            f"{suspect.origin.source} is no classifier of texts, and repairs are measured by "
            "classes; give a language model with label words or a head of classes"
        )
    if any(isinstance(part, DropIn) for part in suspect.module.modules()):
        raise AuditError(
            "these experts are in a MixLoRA adapter, and no folder of transformers holds such a "
            "model as a whole. Leave the adapter off, or train it again"
        )
    return suspect


def labelled_texts(clean: CleanSamples) -> TextCleanSet:
    """Clean samples that a classifier of texts can be measured on.

    Raises:
        AuditError: they are others.
    """
    if not isinstance(clean, TextCleanSet) or clean.responses:
        raise AuditError(
            f"{clean.source.name} holds no labelled texts; repairs are measured on such"
        )
    return clean


def _class_index(target: str, suspect: TextSuspect) -> int:
    names, count = list(suspect.class_names), suspect.num_classes or 0
    if target in names:
        return names.index(target)
    if target.isdecimal() and int(target) < count:
        return int(target)
    raise ConfigError(
        f"the model has no class {target!r}; name one of {', '.join(names) or 'its classes'}, or "
        f"give its index, 0 to {count - 1}"
    )
