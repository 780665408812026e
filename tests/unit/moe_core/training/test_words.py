from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from moe_core.training.words import PAD, UNKNOWN, Words

TEXTS = ["The film, the plot.", "a film !?"]


def test_frequent_words_come_first_and_the_size_holds() -> None:
    words = Words.learn(TEXTS, 7, always=["label"])
    assert words.words == (PAD, UNKNOWN, "label", "film", "the", "!?", ",")
    assert words.vocab_size == 7
    assert words.encode("The FILM label, zebra").tolist() == [4, 3, 2, 6, 1]


@given(
    st.text(
        st.characters(max_codepoint=0x17F, exclude_categories=["C", "No"], exclude_characters="İ"),
        max_size=30,
    )
)
def test_the_package_tokenizers_reads_the_same_tokens(text: str) -> None:
    words = Words.learn([*TEXTS, "é ß 12"], 99)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(words.document()))
    assert theirs.encode(text).ids == words.encode(text).tolist()


def test_transformers_opens_the_folder(tmp_path: Path) -> None:
    words = Words.learn(TEXTS, 99)
    words.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "olmoe"}', encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("The plot, zebra")["input_ids"] == words.encode("The plot, zebra").tolist()
    assert (theirs.pad_token, theirs.pad_token_id) == (PAD, 0)
    assert Words.read(tmp_path).words == words.words


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no vocabulary of words"):
        Words.read(tmp_path)
    model = {"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": {"type": "Whitespace"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(model), encoding="utf-8")
    with pytest.raises(ValueError, match="not one of whole words"):
        Words.read(tmp_path)
    with pytest.raises(ValueError, match="starts with"):
        Words(["a", "b"])
