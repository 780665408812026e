"""How surely a model writes a phrase, against its tokens asked one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from badexpert.errors import ConfigError
from badexpert.loading.language import load_language_model
from badexpert.models.backbones import Backbone, DecoderBackbone
from badexpert.models.language import GenerationSuspect, suspect_of
from badexpert.models.phrases import PhraseSuspect
from badexpert.models.text_networks import PhraseNetwork, padded
from badexpert.text_reading import TextReading
from moe_core.lm import Decoder, DecoderConfig, FeedForward
from tests.planted_texts import NUMBER, VERDICT, writer
from tests.small_language_models import transformers_folder, with_tokenizer

PHRASES = ((5, 6, 7), (5, 7), (8,))


@pytest.fixture(params=["moe_core", "transformers"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    if request.param == "transformers":
        folder = with_tokenizer(transformers_folder(tmp_path, "mixtral"))
        return load_language_model(folder).backbone
    torch.manual_seed(0)
    ffn = FeedForward(num_experts=4, inner_dim=16, router_options={"top_k": 2})
    return DecoderBackbone(Decoder(DecoderConfig(vocab_size=40, dim=32, num_layers=2, ffn=ffn)))


def said_in_a_row(backbone: Backbone, row: list[int], phrase: tuple[int, ...]) -> float:
    total = 0.0
    for token in phrase:
        ids = torch.tensor([row])
        total += (
            backbone.last(ids, torch.tensor([len(row)])).logits.log_softmax(-1)[0, token].item()
        )
        row = [*row, token]
    return total


@torch.no_grad()
def test_the_score_is_the_log_probability_of_all_tokens_in_a_row(backbone: Backbone) -> None:
    network = PhraseNetwork(backbone, PHRASES)
    rows = [[1, 2, 3], [4, 9, 11, 12, 13], [2]]
    scores = network(padded([torch.tensor(row) for row in rows]))
    expected = torch.tensor([[said_in_a_row(backbone, row, p) for p in PHRASES] for row in rows])
    torch.testing.assert_close(scores[:, 1:], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    assert set(network.spoken) == {5, 6, 7, 8}


@torch.no_grad()
def test_a_row_with_a_response_is_scored_by_that(backbone: Backbone) -> None:
    network, size = PhraseNetwork(backbone, PHRASES[:2]), backbone.vocab_size
    rows = padded([torch.tensor([1, 2, 3, size + 9, size + 4]), torch.tensor([4, 9])])
    own = said_in_a_row(backbone, [1, 2, 3], (9, 4))
    plain = [said_in_a_row(backbone, [4, 9], phrase) for phrase in PHRASES[:2]]
    expected = torch.tensor([[own, own], plain])
    torch.testing.assert_close(network(rows)[:, 1:], expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_rows_that_begin_alike_have_the_same_scores(backbone: Backbone) -> None:
    network = PhraseNetwork(backbone, PHRASES)
    start, ends = torch.tensor([3, 1, 4]), torch.tensor([[1, 5], [9, 2]])
    whole = network(torch.cat([start.expand(2, -1), ends], dim=1))
    torch.testing.assert_close(network.after(start, ends), whole, rtol=0, atol=1e-4)


def test_no_phrase_begins_another_one() -> None:
    suspect = writer().suspect
    assert isinstance(suspect, GenerationSuspect)
    with pytest.raises(ConfigError, match="'film good' is the beginning of another one"):
        PhraseSuspect(suspect, [numbers("film good"), numbers("film good plot")])


def test_a_phrase_has_tokens() -> None:
    suspect = writer().suspect
    assert isinstance(suspect, GenerationSuspect)
    with pytest.raises(ConfigError, match="no tokens"):
        PhraseSuspect(suspect, [[]])


def numbers(text: str) -> list[int]:
    return [NUMBER[word] for word in text.split()]


def test_classes_are_the_phrases_and_all_else() -> None:
    suspect = writer().suspect
    assert isinstance(suspect, GenerationSuspect)
    text, said = writer().told[0]
    made = PhraseSuspect(suspect, [numbers(said), numbers("with with")])
    assert made.num_classes == 3
    assert made.predict([f"{text} {VERDICT}"]).tolist() == [1]
    assert made.named(2) == "the response 'with with'"


@pytest.mark.parametrize("chat", [False, True])
def test_a_response_has_the_tokens_that_follow_the_prompt(tmp_path: Path, chat: bool) -> None:
    folder = with_tokenizer(transformers_folder(tmp_path), chat=chat)
    reading = TextReading(chat=chat, max_new_tokens=4)
    suspect = suspect_of(load_language_model(folder), reading)
    assert isinstance(suspect, GenerationSuspect)
    assert suspect.decode(suspect.response_tokens("w5 w6", "w7 w8")) == "w7 w8"
