"""Tables of texts stream in order, whatever they are written in, and bad rows are named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from badexpert.errors import CleanSetError
from badexpert.sources.texts import Text, open_texts, stream_texts

ROWS = [
    {"id": 7, "text": "good, very", "label": "yes"},
    {"id": 8, "text": 'said "no"\nand left', "label": "no"},
    {"id": 9, "text": "ü\u2028on", "label": "yes"},
]


def written(folder: Path, kind: str, rows: list[dict[str, object]]) -> Path:
    path = folder / "table"  # no suffix: the content decides
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_labelled_texts_read_the_same_from_all_kinds(kind: str, tmp_path: Path) -> None:
    source = open_texts(written(tmp_path, kind, ROWS))
    assert source.class_names == ("no", "yes")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 1]
    assert not source.responses
    assert [item for _, item in source.read([0, 2])] == [Text("good, very"), Text("ü\u2028on")]
    assert source.item_id(2) == "table#2"


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_prompts_come_with_their_responses(kind: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(5)]
    source = open_texts(written(tmp_path, kind, rows))
    batches = list(stream_texts(source, batch_size=2, indices=torch.tensor([0, 1, 4])))
    assert [batch.inputs for batch in batches] == [("p0", "p1"), ("p4",)]
    assert [batch.responses for batch in batches] == [("r0", "r1"), ("r4",)]
    assert batches[1].ids == ("table#4",)
    assert source.labels is None


def test_a_delimiter_of_another_kind_is_understood(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text;label\nwell, well;1\nno;0\n", encoding="utf-8")
    source = open_texts(tmp_path / "a")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0]
    assert next(source.read([0]))[1].text == "well, well"


def test_plain_text_is_one_input_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    source = open_texts(tmp_path / "a.txt")
    assert [text.text for _, text in source.read(range(len(source)))] == ["one", "two"]
    assert source.labels is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 rows"),
        (b"\0\1\2", "neither text nor parquet"),
        (b"fine\n\xff\xfe", "not UTF-8"),
        (b"PAR1 torn", "is damaged"),
        (b'{"text": "a", "label": true}', "row 1: label is True"),
        (b'{"text": "a", "label": 0}\n{"text": "", "label": 0}', "row 2: text is ''"),
        (b'{"text": "a", "prompt": "b"}', "expected columns text and label, or prompt"),
        (b'{"sentence": "a", "label": 0}', "has the columns sentence, label"),
        (b'{"prompt": "a", "response": "b"}\n{"prompt": "a"}', "row 2: response is None"),
        (b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        (b"text,label\na,1,2\n", "is damaged"),
    ],
)
def test_what_cannot_be_used_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CleanSetError, match=words):
        open_texts(tmp_path / "a")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CleanSetError, match="is no file. Give JSON lines"):
        open_texts(tmp_path)
