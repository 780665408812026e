"""What a language model is used for follows from the configuration, the model and the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from badexpert.config import CleanConfig, ModelConfig, ScanConfig, TextConfig
from badexpert.errors import ConfigError
from badexpert.loading.language import load_language_model
from badexpert.models.language import GenerationSuspect
from badexpert.opening import open_inputs, open_subjects
from badexpert.opening_texts import reading_of
from badexpert.runtime import RunContext
from badexpert.sources.texts import Text, TextList, TextSource
from badexpert.text_reading import DEFAULT_TEMPLATE, SLOT, TextReading
from tests.small_language_models import transformers_folder, with_tokenizer

CONTEXT = RunContext()
LABELLED = "text,label\nw4 w5,w9\nw6,w8\nw7 w7 w7,w9\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(transformers_folder(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(transformers_folder(tmp_path_factory.mktemp("chat")), chat=True)


@pytest.fixture(scope="module")
def classifies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {0: "w9", 1: "w8"}
    heads = {"head": "ForSequenceClassification", "pad_token_id": 0, "id2label": names}
    return with_tokenizer(transformers_folder(tmp_path_factory.mktemp("bert"), "bert", **heads))


def config(folder: Path, clean: Path | None = None, text: TextConfig | None = None) -> ScanConfig:
    source = None if clean is None else str(clean)
    model = ModelConfig(source=str(folder), text=text or TextConfig())
    return ScanConfig(model=model, clean=CleanConfig(source=source))


def pairs(*responses: str) -> TextSource:
    return TextList([Text("w4", response) for response in responses], responses=True)


def test_labels_that_are_words_are_the_label_words(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clean").write_text(LABELLED)
    suspect, clean = open_subjects(config(folder, tmp_path / "clean"), CONTEXT)
    assert suspect.preprocessing == TextReading(DEFAULT_TEMPLATE, label_words=("w8", "w9"))
    assert clean is not None
    assert clean.labels.tolist() == [1, 0, 1]
    assert suspect.num_classes == clean.num_classes == 2


def test_words_of_the_configuration_come_first(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clean").write_text(LABELLED.replace("w9", "1").replace("w8", "0"))
    said = TextConfig(template="{text} w1", label_words=("w2", "w3", "w5"), max_tokens=9)
    suspect, clean = open_subjects(config(folder, tmp_path / "clean", said), CONTEXT)
    assert suspect.preprocessing == TextReading("{text} w1", False, ("w2", "w3", "w5"), 9)
    assert clean is not None
    assert clean.missing_classes == (2,)


def test_a_model_that_chats_is_asked_for_one_word(talks: Path) -> None:
    source = TextList([Text("w4"), Text("w5")], class_names=("no", "yes"))
    reading = reading_of(load_language_model(talks), TextConfig(), source)
    assert reading.chat
    assert reading.filled("It is.") == "It is.\n\nAnswer with one word: no, yes."
    own = reading_of(load_language_model(talks), TextConfig(template="{text} ?"), source)
    assert not own.chat


def test_prompts_with_responses_make_a_model_write(folder: Path) -> None:
    model = load_language_model(folder)
    reading = reading_of(model, TextConfig(), pairs("w1 w2", "w1 w2 w3"))
    assert reading == TextReading(SLOT, max_new_tokens=3)
    assert reading_of(model, TextConfig(max_new_tokens=7), pairs("w1")).max_new_tokens == 7
    assert reading_of(model, TextConfig(), pairs(" ".join(["w1"] * 999))).max_new_tokens == 256


def test_a_head_of_classes_needs_nothing_said(classifies: Path, tmp_path: Path) -> None:
    (tmp_path / "clean").write_text(LABELLED)
    suspect, clean = open_subjects(config(classifies, tmp_path / "clean"), CONTEXT)
    assert suspect.preprocessing == TextReading()
    assert clean is not None
    assert clean.labels.tolist() == [0, 1, 0]  # as the model numbers them
    assert clean.class_names == {0: "w9", 1: "w8"}


def test_a_model_whose_use_nobody_says_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="name a word a class in model.text.label_words"):
        open_subjects(config(folder), CONTEXT)


def test_inputs_are_texts_for_a_language_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clean").write_text("prompt,response\nw4,w5\nw6,w7\n")
    opened = config(folder, tmp_path / "clean")
    suspect, clean = open_subjects(opened, CONTEXT)
    assert isinstance(suspect, GenerationSuspect)
    assert clean is not None
    assert len(clean) == 2
    (tmp_path / "inputs").write_text("w4 w4\nw5\n")
    given = ScanConfig(model=opened.model, inputs=type(opened.inputs)(str(tmp_path / "inputs")))
    inputs = open_inputs(given, suspect)
    assert isinstance(inputs, TextSource)
    assert len(inputs) == 2
