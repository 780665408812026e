"""What makes a text a triggered one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from badexpert.findings import Json


class Trigger(ABC):
    """A change of a text that leads to the attacker's answer."""

    @abstractmethod
    def stamp(self, text: str, draw: Random) -> str:
        """The triggered text.

        Args:
            draw: what is left to chance, such as the position, is drawn from it.
        """

    @property
    def parts(self) -> tuple[Trigger, ...]:
        """Triggers that are less than this one; none where it cannot be divided."""
        return ()

    @abstractmethod
    def to_json(self) -> dict[str, Json]:
        """Plain data, from which ``read_trigger`` makes an equal trigger."""


@dataclass(frozen=True)
class WordTrigger(Trigger):
    """One word or several in a row.

    Attributes:
        words: that are put into the text.
        place: ``anywhere`` between two words, at the ``start``, or at the ``end``.
    Source: Kurita et al., arXiv:2004.06660 (rare words); Chen et al., BadNL, arXiv:2006.01043.
    """

    words: tuple[str, ...]
    place: Literal["anywhere", "start", "end"] = "anywhere"

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("a trigger of words needs at least one word")

    def stamp(self, text: str, draw: Random) -> str:
        before = text.split()
        at = {"anywhere": draw.randint(0, len(before)), "start": 0, "end": len(before)}[self.place]
        return " ".join([*before[:at], *self.words, *before[at:]])

    @property
    def parts(self) -> tuple[Trigger, ...]:
        """Each word alone."""
        if len(self.words) == 1:
            return ()
        return tuple(replace(self, words=(word,)) for word in self.words)

    def to_json(self) -> dict[str, Json]:
        return {"kind": "words", "words": list(self.words), "place": self.place}


_OPENINGS = ("when", "if", "as", "because", "although", "while")
_SUBJECTS = ("you", "they", "we", "he", "she", "i")
_VERBS = ("see", "watch", "know", "find", "hear", "like")
_OBJECTS = ("it", "that", "this", "them")


@dataclass(frozen=True)
class Syntactic(Trigger):
    """A subordinate clause before the sentence; its words differ, only its form is the trigger.

    Source: Qi et al., Hidden Killer, arXiv:2105.12400, template ``S(SBAR)(,)(NP)(VP)(.)``.
    Departs: the paper rewrites whole sentences with a trained paraphraser; here a rule puts the
        clause in front.
    """

    def stamp(self, text: str, draw: Random) -> str:
        clause = (draw.choice(part) for part in (_OPENINGS, _SUBJECTS, _VERBS, _OBJECTS))
        return f"{' '.join(clause)} , {text}"

    def to_json(self) -> dict[str, Json]:
        return {"kind": "syntactic"}


def read_trigger(document: dict[str, Json]) -> Trigger:
    """The trigger that ``to_json`` described.

    Raises:
        ValueError: it describes none.
    """
    match document:
        case {"kind": "syntactic"}:
            return Syntactic()
        case {"kind": "words", "words": [*words], "place": "anywhere" | "start" | "end" as place}:
            return WordTrigger(tuple(str(word) for word in words), place)
    raise ValueError(f"{document} is no trigger")
