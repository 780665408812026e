from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from badexpert.errors import CleanSetError, ConfigError
from badexpert.texts import LabelledTexts, read_texts

TEXTS = ["good, very", 'said "no"\nand left', "ü"]
TABLE = pa.table({"label": [1, 0, 1], "text": TEXTS, "id": [7, 8, 9]})


def test_a_plain_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo ü", encoding="utf-8")
    assert read_texts(tmp_path / "a.txt") == "one\ntwo ü"


def test_tables_of_all_kinds_read_the_same(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(TABLE, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(TABLE, tmp_path / "a.csv")
    lines = "\n".join(json.dumps(row) for row in TABLE.to_pylist())
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    for kind in ("parquet", "csv", "jsonl"):
        assert read_texts(tmp_path / f"a.{kind}") == LabelledTexts(TEXTS, ["1", "0", "1"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.parquet", b"PAR1 no", "is damaged"),
        ("a.csv", b"text,class\na,1\n", "lacks the columns text and label"),
        ("a.csv", b"text,label\na,1\nb,1\n", "has 1 classes; 2 are needed"),
        ("a.csv", b"text,label\na,1\nb,\n", "row 2: label is ''"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}', "row 2: label is None"),
        ("a.jsonl", b'{"text": 3, "label": 1}', "row 1"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n[1]', "line 2"),
        ("a.jsonl", b"[1]", "lacks the columns"),
    ],
)
def test_what_cannot_be_used_is_named(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CleanSetError, match=words):
        read_texts(tmp_path / name)


def test_unknown_and_missing_files_are_asked_wrongly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give \.txt, \.parquet, \.csv, \.jsonl"):
        read_texts(tmp_path / "a.doc")
    with pytest.raises(ConfigError, match="is not there"):
        read_texts(tmp_path / "a.txt")
