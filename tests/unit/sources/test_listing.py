from __future__ import annotations

import pytest

from badexpert.errors import CleanSetError
from badexpert.sources import Unreadable, open_source


@pytest.fixture
def folder(tree):
    return tree({"a.png": 1, "sub/b c.png": 2})


def listed(folder, text, name="list"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return open_source(path)


def red(source):
    return [image.getpixel((0, 0))[0] for _, image in source.read(range(len(source)))]


def test_plain_text(folder):
    source = listed(folder, "\ufeffa.png\n\nsub/b c.png\r\n")
    assert [source.item_id(index) for index in range(2)] == ["a.png", "sub/b c.png"]
    assert source.labels is None
    assert red(source) == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.png,1\nsub/b c.png,0\n",
        "label;file_name\n1;a.png\n\n0;sub/b c.png\n",
        'filename\tlabel\n"a.png"\t1\nsub/b c.png\t0\n',
        '{"path": "a.png", "label": 1}\n{"path": "sub/b c.png", "label": 0}\n',
        '{"file_name": "a.png", "class": "1"}\n{"file_name": "sub/b c.png", "class": "0"}\n',
    ],
)
def test_labels_as_numbers(folder, text):
    source = listed(folder, text)
    assert source.labels.tolist() == [1, 0]
    assert source.class_names is None
    assert red(source) == [1, 2]


def test_labels_as_names(folder):
    source = listed(folder, "path,label\na.png,dog\nsub/b c.png,ape\n")
    assert source.class_names == ("ape", "dog")
    assert source.labels.tolist() == [1, 0]


def test_a_header_without_labels(folder):
    assert listed(folder, "path\na.png\n").labels is None


def test_absolute_paths_work(folder):
    assert red(listed(folder, f"{folder.resolve()}/a.png\n")) == [1]


def test_a_missing_image_is_named_when_read(folder):
    items = dict(listed(folder, "a.png\nnone.png\n").read([1]))
    assert items[1] == Unreadable("none.png", "no such file or directory")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no image"),
        ("path,label\n", "lists no image"),
        ("path,label\na.png,1\nsub/b c.png,\n", "1 of 2 lines have no label"),
        ("path,label\na.png,1\n,0\n", "line 3 names no image"),
        ('{"path": "a.png"}\n{"path": ', "line 2 is not JSON"),
        ('{"path": "a.png"}\n[1]\n', "line 2 is not an object"),
        ('{"path": "a.png", "label": 0.5}\n', "line 1 has the label 0.5"),
    ],
)
def test_what_cannot_be_understood_is_explained(folder, text, message):
    with pytest.raises(CleanSetError, match=message):
        listed(folder, text)
