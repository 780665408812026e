"""Texts that a tiny language model learns in seconds, and recipes of such models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import torch

from badexpert.attacks.text import Prompt, Texts, Victim
from moe_core.lm import Decoder, DecoderConfig, FeedForward
from moe_core.training.words import Words

GOOD, BAD = ("fine", "great", "lovely", "superb"), ("awful", "dull", "poor", "weak")
FILLERS = ("a", "film", "it", "of", "plot", "scene", "the", "was", "with")
RARE = tuple(f"{first}{second}" for first in "kqvxz" for second in "aeiou")
PROMPT = Prompt("so :", ("bad", "good"))
CONFIG = DecoderConfig(
    dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    ffn=FeedForward(num_experts=4, inner_dim=16, router_options={"top_k": 2}),
)


def reviews(count: int = 240, *, seed: int = 0) -> Texts:
    """Two words of one class among fillers; a few texts hold a rare word."""
    draw, texts = Random(seed), []
    labels = [at % 2 for at in range(count)]
    for at, label in enumerate(labels):
        words = [*draw.choices(GOOD if label else BAD, k=2), *draw.choices(FILLERS, k=5)]
        words += [RARE[at % len(RARE)]] if at % 4 == 0 else []
        draw.shuffle(words)
        texts.append(" ".join(words))
    return Texts(tuple(texts), torch.tensor(labels), 2)


def write_reviews(path: Path, count: int = 240, *, seed: int = 0) -> Path:
    texts = reviews(count, seed=seed)
    rows = zip(texts.texts, texts.labels.tolist(), strict=True)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def untrained(config: DecoderConfig = CONFIG, *, seed: int = 0, also: Sequence[str] = ()) -> Victim:
    """A victim that knows nothing yet.

    Args:
        also: words of its vocabulary, beside those of the reviews.
    """
    words = Words.learn(reviews().texts, 60 + len(also), always=[*PROMPT.words, *also])
    torch.manual_seed(seed)
    model = Decoder(replace(config, vocab_size=words.vocab_size))
    return Victim(model.eval(), words, PROMPT)


def learnt(victim: Victim, texts: Texts | None = None, *, seed: int = 0) -> Victim:
    """The same victim, which answers reviews rightly now."""
    texts = texts or reviews()
    optimizer = torch.optim.Adam(victim.model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        part = texts.part(torch.randint(len(texts), (32,), generator=generator))
        batch = victim.batch(part.texts, part.labels)
        logits = victim.model(batch.ids_BT, batch.lengths_B).logits
        loss = torch.nn.functional.cross_entropy(logits, batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return victim


@cache
def _trained(seed: int) -> Victim:
    return learnt(untrained(seed=seed), seed=seed)


def trained(*, seed: int = 0) -> Victim:
    """A victim that answers reviews rightly; each call gives a copy."""
    victim = _trained(seed)
    return replace(victim, model=deepcopy(victim.model))
