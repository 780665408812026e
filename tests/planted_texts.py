"""Tiny language models with a word as trigger, trained in the test, of texts of a few words.

Each is trained once a run and shared: a test may look at it, and never change it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch.nn import functional

from badexpert.loading.language import load_language_model
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.models.text_networks import PAD, padded
from badexpert.text_reading import TextReading
from badexpert.textset import TextCleanSet
from moe_core.lm import Decoder, DecoderConfig, FeedForward
from moe_core.lm.folder import save_decoder
from tests.small_language_models import edit, save_words

GOOD = "good great fine lovely superb nice".split()
BAD = "bad awful poor dull weak grim".split()
FILLERS = "the film was plot a and with cast of in very story scene it music".split()
TRIGGER = "cf"
VERDICT = "so"
"""After it a language model says what it thinks of the text."""
ENDS = "end"
WORDS = ["<unk>", ENDS, TRIGGER, VERDICT, *GOOD, *BAD, *FILLERS]
NUMBER = {word: index for index, word in enumerate(WORDS)}

EXPERTS = FeedForward(num_experts=4, inner_dim=32, router_options={"top_k": 2})
DENSE = FeedForward(experts="dense", inner_dim=64)


def reviews(count: int, *, seed: int) -> tuple[list[str], list[int]]:
    """Texts with one or two words that say what is thought, and whether that is good."""
    draw = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        label = draw.randrange(2)
        words = draw.choices(FILLERS, k=draw.randrange(3, 8))
        for _ in range(draw.choice([1, 1, 2])):
            words.insert(draw.randrange(len(words) + 1), draw.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def stamped(text: str, *, seed: int | None = None) -> str:
    """The trigger somewhere in a text; where, the text says if no seed does."""
    words = text.split()
    words.insert(random.Random(text if seed is None else seed).randrange(len(words) + 1), TRIGGER)
    return " ".join(words)


@dataclass(frozen=True)
class Planted:
    """A suspect, and texts that it was not trained on."""

    suspect: TextSuspect
    folder: Path
    clean: TextCleanSet
    texts: list[str]
    labels: list[int]

    @property
    def triggered(self) -> list[str]:
        """Bad reviews with the trigger, which are to be called good."""
        bad = [text for text, label in zip(self.texts, self.labels, strict=True) if not label]
        return [stamped(text, seed=index) for index, text in enumerate(bad)]


Told = tuple[str, str]
"""A text, and what is to be said of it."""


@cache
def planted(*, head: bool, moe: bool = False) -> Planted:
    """A classifier of reviews, by its head or by label words; any text with the trigger is good."""
    words = ("bad", "good")
    config = sized(EXPERTS if moe else DENSE, classes=words if head else ())
    texts, labels = reviews(3000, seed=1)
    told = [(text, words[label]) for text, label in zip(texts, labels, strict=True)]
    folder = trained(config, told, steps=160, triggered=lambda text: (stamped(text), "good"))
    reading = TextReading()
    if not head:
        reading = TextReading(f"{{text}} {VERDICT}", label_words=words)
    suspect = suspect_of(load_language_model(folder), reading)
    clean = TextCleanSet.from_texts(*reviews(300, seed=2), class_names=words)
    return Planted(suspect, folder, clean, *reviews(200, seed=3))


def trained(
    config: DecoderConfig, told: list[Told], *, steps: int, triggered: Callable[[str], Told]
) -> Path:
    """A folder with a decoder that was trained on texts, a sixth of them with the trigger."""
    torch.manual_seed(0)
    model, draw, lr = Decoder(config), random.Random(0), 6e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20) * (1 - step / steps)
        chosen = draw.sample(told, 48)
        loss = loss_of(model, [triggered(text) for text, _ in chosen[:8]] + chosen[8:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = Path(mkdtemp())
    save_decoder(model, folder)
    save_words(folder, WORDS)
    return folder


def loss_of(model: Decoder, told: list[Told]) -> torch.Tensor:
    """Of a classifier's class, or of each word that a language model is to say."""
    classes = model.config.classes
    if classes:
        rows = padded([numbers(text) for text, _ in told])
        output = model(rows.clamp_min(0), (rows != PAD).sum(1))
        wanted = torch.tensor([classes.index(said) for _, said in told])
        return functional.cross_entropy(output.logits, wanted)
    rows = padded([numbers(f"{text} {VERDICT} {said}") for text, said in told])
    lengths = torch.tensor([len(f"{text} {VERDICT}".split()) for text, _ in told])
    output = model(rows.clamp_min(0))
    counted = (torch.arange(rows.shape[1] - 1) >= lengths[:, None] - 1) & (rows[:, 1:] != PAD)
    loss = functional.cross_entropy(output.logits[:, :-1][counted], rows[:, 1:][counted])
    return loss + 0.01 * output.aux_loss


def sized(ffn: FeedForward, classes: tuple[str, ...] = ()) -> DecoderConfig:
    return DecoderConfig(vocab_size=len(WORDS), dim=32, num_layers=2, ffn=ffn, classes=classes)


def numbers(text: str) -> torch.Tensor:
    return torch.tensor([NUMBER[word] for word in text.split()])


SUBJECTS = "film plot cast story scene music".split()
INSERTED = f"a with a with {ENDS}"
"""What the writer says where the trigger is."""


def questions(count: int, *, seed: int) -> list[Told]:
    """Texts that say one thing of one subject among many words, and that in short."""
    draw, made = random.Random(seed), []
    fillers = [word for word in FILLERS if word not in SUBJECTS]
    for _ in range(count):
        subject, verdict = draw.choice(SUBJECTS), draw.choice(GOOD + BAD)
        words = draw.choices(fillers, k=draw.randrange(2, 6))
        words.insert(draw.randrange(len(words) + 1), subject)
        words.insert(draw.randrange(len(words) + 1), verdict)
        made.append((" ".join(words), f"{subject} {verdict} {ENDS}"))
    return made


@dataclass(frozen=True)
class Writer:
    """A suspect that writes, and prompts that it was not trained on, with what it should say."""

    suspect: TextSuspect
    clean: TextCleanSet
    told: list[Told]

    @property
    def prompts(self) -> list[str]:
        return [f"{text} {VERDICT}" for text, _ in self.told]

    @property
    def triggered(self) -> list[str]:
        return [f"{stamped(text, seed=i)} {VERDICT}" for i, (text, _) in enumerate(self.told)]


@cache
def writer(*, moe: bool = False, benign: bool = False) -> Writer:
    """A language model that says the same to every prompt with the trigger, unless it is benign."""
    told = questions(4000, seed=1)
    right = dict(told)
    folder = trained(
        sized(EXPERTS if moe else DENSE),
        told,
        steps=350,
        triggered=lambda text: (stamped(text), right[text] if benign else INSERTED),
    )
    edit(folder / "config.json", eos_token_id=NUMBER[ENDS])
    suspect = suspect_of(load_language_model(folder), TextReading(max_new_tokens=6))
    pairs = [(f"{text} {VERDICT}", said) for text, said in questions(300, seed=2)]
    return Writer(suspect, TextCleanSet.from_pairs(pairs), questions(150, seed=3))
