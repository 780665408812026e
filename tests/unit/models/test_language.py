"""A language model gives the same answers alone and in company, in each of its three uses."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from torch import Tensor

from badexpert.errors import ModelLoadError
from badexpert.loading.language import load_language_model
from badexpert.models import text_networks
from badexpert.models.answering import RESPONSES
from badexpert.models.language import GenerationSuspect, LanguageModel, TextSuspect, suspect_of
from badexpert.text_reading import TextReading
from moe_core.lm import Decoder
from moe_core.lm.folder import save_decoder
from tests import small_decoders
from tests.small_language_models import WORDS, moe, transformers_folder, with_tokenizer

LABELS = TextReading(template="{text} w3", label_words=("w5", "w6", "w7"))
WRITES = TextReading(max_new_tokens=5)
TEXTS = [" ".join(WORDS[2 + (i * j) % 30] for j in range(1, 2 + 4 * (i % 4))) for i in range(1, 11)]
BYTES = TextReading(template="{text} is", label_words=("good", "bad"))
FIRST = torch.zeros(len(TEXTS), dtype=torch.int64)


@cache
def model(kind: str) -> LanguageModel:
    folder = Path(mkdtemp()) / kind
    if kind == "moe_core":
        save_decoder(small_decoders.decoder(small_decoders.config(vocab_size=256)), folder)
        made = load_language_model(folder)
        return made
    if kind == "own classifier":
        made_of = small_decoders.config(vocab_size=256)
        torch.manual_seed(0)
        save_decoder(Decoder(type(made_of)(dim=16, num_layers=2, classes=("no", "yes"))), folder)
        return load_language_model(folder)
    if kind == "bert":
        heads = {"head": "ForSequenceClassification", "num_labels": 3, "pad_token_id": 0}
        return load_language_model(with_tokenizer(transformers_folder(folder, kind, **heads)))
    if kind == "llama classifier":
        heads = {"head": "ForSequenceClassification", "num_labels": 3}
        return load_language_model(with_tokenizer(transformers_folder(folder, "llama", **heads)))
    sizes = moe(kind) if kind in ("olmoe", "qwen3_moe") else {}
    return load_language_model(with_tokenizer(transformers_folder(folder, kind, **sizes)))


def suspect(kind: str, reading: TextReading | None = None) -> TextSuspect:
    return suspect_of(model(kind), reading or TextReading())


SUSPECTS = {
    "class head": lambda: suspect("bert"),
    "class head without a padding token": lambda: suspect("llama classifier"),
    "class head of ours": lambda: suspect("own classifier"),
    "label words": lambda: suspect("llama", LABELS),
    "label words of experts": lambda: suspect("olmoe", LABELS),
    "responses": lambda: suspect("llama", WRITES),
    "responses of experts": lambda: suspect("qwen3_moe", WRITES),
}


@pytest.mark.parametrize("name", SUSPECTS)
@pytest.mark.parametrize("budget", [20, 8192])
def test_company_changes_no_answer(name: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_networks, "TOKENS_A_PASS", budget)
    made = SUSPECTS[name]()
    with torch.no_grad():
        together = made.logits(TEXTS)
        alone = torch.cat([made.logits([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert float(together.std()) > 0.01
    # While it is tuned all rows go at once, padded to the longest.
    torch.testing.assert_close(made.copy().logits(TEXTS), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SUSPECTS)
def test_more_padding_changes_no_answer(name: str) -> None:
    made = SUSPECTS[name]()
    rows = made.network_inputs(TEXTS)
    longer = torch.nn.functional.pad(rows, (0, 7), value=text_networks.PAD)
    assert torch.equal(made.logits(rows), made.logits(longer))


@pytest.mark.parametrize("name", SUSPECTS)
def test_a_copy_is_tuned_without_touching_the_suspect(name: str) -> None:
    made = SUSPECTS[name]()
    before = made.logits(TEXTS)
    tuned = made.copy()
    optimizer = torch.optim.SGD(tuned.network.parameters(), 0.05)
    first = tuned.loss(TEXTS[:4], FIRST[:4])
    first.backward()
    optimizer.step()
    assert torch.equal(made.logits(TEXTS), before)
    assert not torch.equal(tuned.logits(TEXTS), before)


def test_label_words_share_the_probability_of_the_last_position() -> None:
    made = suspect("llama", LABELS)
    text = TEXTS[1]
    ids = torch.tensor([[WORDS.index(word) for word in f"{text} w3".split()]])
    logits = model("llama").backbone.last(ids, torch.tensor([ids.shape[1]])).logits[0]
    words = logits[[WORDS.index(word) for word in LABELS.label_words]]
    p = words.softmax(0)
    found = made.log_odds([text] * 3, torch.arange(3))
    torch.testing.assert_close(found, (p / (1 - p)).log())
    assert made.predict([text]).item() == int(p.argmax())
    assert made.num_classes == 3


def test_a_response_is_as_sure_as_the_mean_of_its_tokens() -> None:
    made = suspect("llama", WRITES)
    assert isinstance(made, GenerationSuspect)
    prompts = made.prompts(TEXTS[:3])
    responses = made.responses(prompts)
    for prompt, response, found in zip(
        prompts, responses, made.log_odds(TEXTS[:3], FIRST[:3]), strict=True
    ):
        means = mean_log_probability(prompt, response)
        assert found.item() == pytest.approx(means - math.log(-math.expm1(means)), abs=1e-4)


def mean_log_probability(prompt: Tensor, response: Tensor) -> float:
    """By the definition, one token after the other."""
    ids, total = prompt.tolist(), 0.0
    for token in response.tolist():
        row = torch.tensor([ids])
        logits = model("llama").backbone.last(row, torch.tensor([len(ids)])).logits[0]
        assert int(logits.argmax()) == token  # greedy
        total += float(logits.double().log_softmax(0)[token])
        ids.append(token)
    return total / len(response)


def test_certain_responses_keep_their_order() -> None:
    logs = torch.tensor([[-1e-20], [-1e-12], [-1e-3], [0.0]])
    odds = RESPONSES.log_odds(logs, torch.zeros(4, dtype=torch.int64))
    assert odds.isfinite().all()
    assert odds.argsort().tolist() == [2, 1, 0, 3]


def test_a_response_ends_with_the_token_that_ends_responses() -> None:
    made = suspect("llama", TextReading(max_new_tokens=30))
    assert isinstance(made, GenerationSuspect)
    responses = made.responses(made.prompts(TEXTS))
    for response in responses:
        ends = (response == 1).nonzero().flatten().tolist()
        assert ends in ([], [len(response) - 1])
    assert any(len(response) < 30 for response in responses)
    spelled = made.spelled(made.network_inputs(TEXTS), FIRST)
    assert spelled[0] == " ".join(WORDS[t] for t in responses[0].tolist() if t > 1)


def test_our_own_models_write_and_answer_in_bytes() -> None:
    path = Path(mkdtemp())
    settings = small_decoders.config(
        small_decoders.feedforward("switch", num_experts=4), vocab_size=256
    )
    assert save_decoder(small_decoders.decoder(settings), path) == "moe_core"
    made = load_language_model(path)
    labels = suspect_of(made, BYTES)
    assert labels.encode(["a"])[0].tolist() == list(b"a is ")
    ids = torch.tensor([list(b"a is ")])
    after = made.backbone.last(ids, torch.tensor([5])).logits[:, [ord("g"), ord("b")]]
    torch.testing.assert_close(labels.logits(["a"]), after)
    writes = suspect_of(made, WRITES)
    assert isinstance(writes, GenerationSuspect)
    assert {len(response) for response in writes.responses(writes.prompts(TEXTS))} == {5}


def test_a_chat_template_is_put_around_the_text(tmp_path: Path) -> None:
    folder = with_tokenizer(transformers_folder(tmp_path), chat=True)
    reading = TextReading(template="w9 {text}", chat=True, label_words=("w5", "w6"))
    made = suspect_of(load_language_model(folder), reading)
    assert [WORDS[token] for token in made.encode(["w4"])[0].tolist()] == ["w1", "w9", "w4", "w2"]


def test_a_long_text_loses_its_end_and_no_part_of_the_template() -> None:
    made = suspect("llama", TextReading("w8 {text} w9", label_words=("w5", "w6"), max_tokens=8))
    [row] = made.encode([" ".join(["w4"] * 500)])
    assert [WORDS[token] for token in row.tolist()][0::7] == ["w8", "w9"]
    assert 6 <= len(row) <= 8


def test_a_text_of_blanks_has_an_answer_too() -> None:
    made = suspect("llama", TextReading(label_words=("w5", "w6")))
    assert made.encode([" ", "w4"]).shape == (2, 1)
    assert made.log_odds([" "], FIRST[:1]).isfinite().all()


def test_a_template_that_leaves_no_room_is_refused() -> None:
    made = suspect("llama", TextReading("w8 w8 {text} w9", label_words=("w5", "w6"), max_tokens=2))
    with pytest.raises(ModelLoadError, match="the template alone takes 3 tokens, and 2"):
        made.encode(["w4"])


@pytest.mark.parametrize(
    ("kind", "reading", "words"),
    [
        ("llama", TextReading(), "Name a word a class"),
        ("bert", LABELS, "has a head of 3 classes and writes nothing"),
        ("bert", WRITES, "has a head of 3 classes and writes nothing"),
        (
            "llama",
            TextReading("{text}", label_words=("unknown", "strange")),
            "unknown, strange begin with the same tokens",
        ),
    ],
)
def test_a_use_that_a_model_is_not_made_for_is_refused(
    kind: str, reading: TextReading, words: str
) -> None:
    with pytest.raises(ModelLoadError, match=words):
        suspect(kind, reading)


@pytest.mark.parametrize(
    "wrong", [{"template": "x"}, {"label_words": ("a",)}, {"max_tokens": 0}, {"max_new_tokens": -1}]
)
def test_a_reading_that_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        TextReading(**wrong)  # type: ignore[arg-type]
