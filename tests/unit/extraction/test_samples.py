"""Clean samples become what a network is tuned on, each kind in its own way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from badexpert.errors import AuditError, CleanSetError
from badexpert.extraction.features import Features
from badexpert.extraction.samples import samples_of, strangers, with_strangers
from badexpert.loading.language import load_language_model
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.models.text_networks import PAD
from badexpert.runtime import RunContext
from badexpert.text_reading import TextReading
from badexpert.textset import TextCleanSet
from tests.small_language_models import VOCABULARY, WORDS, transformers_folder, with_tokenizer
from tests.small_models import backdoored

PROMPTS = [" ".join(WORDS[2 + (i * j) % 30] for j in range(1, 3 + i % 3)) for i in range(1, 13)]
PAIRS = TextCleanSet.from_pairs([(prompt, "w1") for prompt in PROMPTS])
LABELLED = TextCleanSet.from_texts(PROMPTS, [0, 1] * 6)


def suspect(folder: Path, **reading: object) -> TextSuspect:
    model = load_language_model(with_tokenizer(transformers_folder(folder)))
    return suspect_of(model, TextReading(**reading))  # type: ignore[arg-type]


def taken(made: TextSuspect, clean: TextCleanSet) -> Features:
    return samples_of(made, clean, RunContext())


def test_labelled_texts_become_rows_of_tokens(tmp_path: Path) -> None:
    made = suspect(tmp_path, label_words=("w5", "w6"))
    samples = taken(made, LABELLED)
    assert torch.equal(samples.values, made.encode(PROMPTS))
    assert samples.labels.tolist() == [0, 1] * 6


def test_a_prompt_is_joined_with_the_models_own_response_and_a_strangers(tmp_path: Path) -> None:
    made = suspect(tmp_path, max_new_tokens=6)
    own = taken(made, PAIRS)
    pairs = with_strangers(made, own, torch.Generator().manual_seed(0)).values
    assert torch.equal(pairs[:, 0, : own.values.shape[2]], own.values[:, 0])
    responses = [tuple(row[row >= VOCABULARY].tolist()) for row in pairs[:, 0]]
    for first, second in pairs:
        prompt = first[(first >= 0) & (first < VOCABULARY)]
        assert torch.equal(prompt, second[(second >= 0) & (second < VOCABULARY)])
        written = tuple(second[second >= VOCABULARY].tolist())
        assert written in responses
        assert written != tuple(first[first >= VOCABULARY].tolist())
    assert bool((pairs[:, :, -1] == PAD).any())


def test_strangers_are_of_about_the_same_length() -> None:
    responses = [torch.arange(10 * n, 10 * n + n) for n in (9, 1, 8, 2, 10, 3)]
    found = strangers(responses, torch.Generator().manual_seed(0))
    for response, stranger in zip(responses, found, strict=True):
        assert 0 < abs(len(responses[stranger]) - len(response)) <= 5
        assert not responses[stranger].equal(response)


def test_equal_responses_are_no_strangers() -> None:
    a, b = torch.tensor([1, 2]), torch.tensor([3, 4])
    found = strangers([a, a, a, b, a], torch.Generator().manual_seed(0))
    assert [found[i] for i in (0, 1, 2, 4)] == [3] * 4
    with pytest.raises(AuditError, match="answers all 3 prompts with the same 2 tokens"):
        strangers([a, a, a], torch.Generator().manual_seed(0))


def test_samples_of_another_kind_are_refused(tmp_path: Path) -> None:
    labels = suspect(tmp_path, label_words=("w5", "w6"))
    for clean in (PAIRS, backdoored().digits.clean.clean_set()):
        with pytest.raises(CleanSetError, match="does not take such"):
            samples_of(labels, clean, RunContext())
    with pytest.raises(CleanSetError, match="holds labelled texts"):
        samples_of(backdoored().suspect, LABELLED, RunContext())
