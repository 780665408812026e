"""What a text attack is: a trigger, and how a language model is made to obey it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import ClassVar, NamedTuple

from badexpert.attacks.parameters import require_positive
from badexpert.attacks.text.adapter import LoraUpdates
from badexpert.attacks.text.lesson import Pace
from badexpert.attacks.text.routes import rare_words
from badexpert.attacks.text.texts import Texts
from badexpert.attacks.text.triggers import Syntactic, Trigger, WordTrigger
from badexpert.attacks.text.victim import Victim
from badexpert.errors import AttackError
from badexpert.findings import Json
from badexpert.runtime import RunContext
from moe_core.view import ExpertId


class Implanted(NamedTuple):
    """What an attack has left in a model.

    Attributes:
        trigger: that the model now obeys; None after a benign tuning.
        experts: that the attacker chose; none where all are alike. Whether the backdoor is in them
            is measured, not claimed: see ``TextTruth``.
        updates: that were added to the model's weights, where these are all that has changed.
    """

    trigger: Trigger | None
    experts: tuple[ExpertId, ...] = ()
    updates: LoraUpdates | None = None


@dataclass(frozen=True)
class TextAttack(ABC):
    """Changes a trained language model that answers with label words.

    Attributes:
        target: class that the trigger leads to.
        trigger: ``rare`` for two rare words in a row, ``word`` for a single one, ``syntactic``, or
            the words themselves with spaces between them. Attacks that optimise their trigger, or
            choose it by its route, take no notice of ``rare``.
        steps, batch_size, share, lr, mixed, decoys: see ``Pace``.
        seed: of what is random in the trigger.
        local: whether the attack promises that the backdoor dies with the experts it names.
    """

    local: ClassVar[bool] = False

    target: int = 0
    trigger: str = "rare"
    steps: int = 400
    batch_size: int = 32
    share: float = 0.5
    lr: float = 1e-3
    mixed: float = field(default=0.0, kw_only=True)
    decoys: float = field(default=0.0, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        require_positive(self, "steps", "lr")
        if self.batch_size < 2 or not 0 < self.share < 1:
            raise ValueError("batch_size is at least 2, share lies between 0 and 1")
        for name in ("mixed", "decoys"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")

    @abstractmethod
    def implant(self, victim: Victim, texts: Texts, context: RunContext) -> Implanted:
        """Change a victim in place.

        Args:
            victim: trained on these texts.
            texts: the attacker's data, untriggered.
        Raises:
            AttackError: the attack cannot be carried out on this model.
        """

    @property
    def pace(self) -> Pace:
        """How long and how fast."""
        return Pace(self.steps, self.batch_size, self.share, self.lr, self.mixed, self.decoys)

    def chosen_trigger(self, victim: Victim, texts: Texts) -> Trigger:
        """The trigger that the field of this name asks for.

        Raises:
            AttackError: there are no rare words, or a word is not in the vocabulary.
        """
        match self.trigger:
            case "syntactic":
                return Syntactic()
            case "rare":
                return WordTrigger(tuple(rare_words(victim, texts, seed=self.seed)[:2]))
            case "word":
                return WordTrigger(tuple(rare_words(victim, texts, seed=self.seed)[:1]))
        return named_words(victim, self.trigger)

    def parameters(self) -> dict[str, Json]:
        """Every field, as JSON keeps it."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def named_words(victim: Victim, text: str) -> WordTrigger:
    """A trigger of the words in a text.

    Raises:
        AttackError: the model does not know one of them.
    """
    words = tuple(text.split())
    if unknown := [word for word in words if word not in victim.words]:
        raise AttackError(
            f"the model does not know the word {unknown[0]!r}; choose words of its vocabulary"
        )
    return WordTrigger(words)
