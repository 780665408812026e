from __future__ import annotations

import pytest

from badexpert.errors import CleanSetError
from badexpert.sources import SOURCES, open_source


def test_what_is_missing_is_said_with_every_form_there_is():
    with pytest.raises(CleanSetError, match="nowhere does not exist") as caught:
        open_source("nowhere")
    assert all(entry.form in str(caught.value) for entry in SOURCES.values())


@pytest.mark.parametrize("data", [bytes(range(256)), b"\0" * 100])
def test_bytes_of_no_known_format(tmp_path, data):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(CleanSetError, match="is of no known format"):
        open_source(tmp_path / "a.bin")


def test_a_damaged_archive_is_told_so(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"PK\x03\x04 the rest is missing")
    with pytest.raises(CleanSetError, match="is damaged"):
        open_source(tmp_path / "a.bin")


def test_what_the_system_refuses_is_an_error_of_ours():
    with pytest.raises(CleanSetError, match="cannot be opened"):
        open_source("x" * 5000)


def test_one_image_is_a_source(tree):
    source = open_source(tree({"a.png": 3}) / "a.png")
    assert (len(source), source.labels, source.item_id(0)) == (1, None, "a.png")
    assert [image.getpixel((0, 0))[0] for _, image in source.read([0])] == [3]


def test_a_root_where_none_belongs(tree):
    with pytest.raises(CleanSetError, match="takes no root folder"):
        open_source(tree({"a.png": 3}), root="elsewhere")


def test_a_long_list_of_many_bytes_a_letter_is_text(tmp_path):
    (tmp_path / "list").write_text("x" + "ü.png\n" * 2000, encoding="utf-8")
    assert len(open_source(tmp_path / "list")) == 2000
