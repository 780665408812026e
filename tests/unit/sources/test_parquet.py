from __future__ import annotations

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from badexpert.errors import CleanSetError
from badexpert.sources import Unreadable, open_source


@pytest.fixture
def cells(png):
    return [{"bytes": png(value), "path": f"{value}.png"} for value in range(25)]


def write(path, columns, *, names=None, row_group_size=10):
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        written = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": written})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def red(image):
    return image.getpixel((0, 0))[0]


def test_hugging_face_layout(tmp_path, cells):
    path = write(
        tmp_path / "a.parquet",
        {"image": cells, "label": [value % 2 for value in range(25)]},
        names=["cat", "dog"],
    )
    source = open_source(path)
    assert len(source) == 25
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist()[:4] == [0, 1, 0, 1]
    assert source.item_id(17) == "a.parquet#17"
    assert [(index, red(image)) for index, image in source.read(range(25))] == [
        (index, index) for index in range(25)
    ]


@pytest.mark.parametrize("wanted", [[0], [24], [9, 10], [3, 12, 13, 24], []])
def test_some_rows_across_row_groups(tmp_path, cells, wanted):
    source = open_source(write(tmp_path / "a.parquet", {"image": cells}))
    assert [(index, red(image)) for index, image in source.read(wanted)] == [
        (index, index) for index in wanted
    ]


@pytest.mark.parametrize(("image", "label"), [("image", "labels"), ("img", "fine_label")])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_under_other_names(tmp_path, cells, image, label, kind):
    data = pa.array([cell["bytes"] for cell in cells], kind)
    source = open_source(write(tmp_path / "a.parquet", {image: data, label: list(range(25))}))
    assert source.labels.tolist() == list(range(25))
    assert [red(item) for _, item in source.read([4, 20])] == [4, 20]


def test_labels_as_names(tmp_path, cells):
    columns = {"image": cells[:3], "label": ["dog", "ape", "dog"]}
    source = open_source(write(tmp_path / "a.parquet", columns))
    assert source.class_names == ("ape", "dog")
    assert source.labels.tolist() == [1, 0, 1]


def test_a_folder_of_shards_is_one_source(tmp_path, cells):
    write(tmp_path / "set/data/b-1.parquet", {"image": cells[10:25], "label": [1] * 15})
    write(tmp_path / "set/data/b-0.parquet", {"image": cells[:10], "label": [0] * 10})
    source = open_source(tmp_path / "set")
    assert source.item_id(9) == "data/b-0.parquet#9"
    assert source.item_id(10) == "data/b-1.parquet#0"
    assert source.labels.tolist() == [0] * 10 + [1] * 15
    assert [red(image) for _, image in source.read([0, 9, 10, 24])] == [0, 9, 10, 24]


def test_rows_without_a_readable_image_are_named(tmp_path, cells):
    cells[1] = {"bytes": None, "path": "elsewhere.png"}
    cells[2] = {"bytes": b"garbage", "path": "2.png"}
    cells[3] = None
    source = open_source(write(tmp_path / "a.parquet", {"image": cells[:5]}))
    items = [item for _, item in source.read(range(5))]
    assert [isinstance(item, Unreadable) for item in items] == [False, True, True, True, False]
    assert items[1] == Unreadable("a.parquet#1", "the row holds no image bytes")
    assert items[2] == Unreadable("a.parquet#2", "not an image of a known format")


def test_content_decides_not_the_suffix(tmp_path, cells):
    source = open_source(write(tmp_path / "a.txt", {"image": cells}))
    assert len(source) == 25


def test_a_source_survives_the_way_to_a_worker(tmp_path, cells):
    source = open_source(write(tmp_path / "a.parquet", {"image": cells, "label": [0] * 25}))
    copy = pickle.loads(pickle.dumps(source))
    assert [red(image) for _, image in copy.read([7])] == [7]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [0]}, "no column of images; got text, label"),
        ({"image": ["a.png"]}, "no column of images"),
        ({"image": [b"x"], "label": pa.array([None], pa.int64())}, "1 empty cells"),
        ({"image": [b"x"], "label": [0.5]}, "column label of type double"),
        ({"image": pa.array([], pa.binary())}, "0 rows"),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path, columns, message):
    with pytest.raises(CleanSetError, match=message):
        open_source(write(tmp_path / "a.parquet", columns))


def test_shards_with_and_without_labels_do_not_mix(tmp_path, cells):
    write(tmp_path / "set/a.parquet", {"image": cells[:2], "label": [0, 1]})
    write(tmp_path / "set/b.parquet", {"image": cells[:2]})
    with pytest.raises(CleanSetError, match="1 of 2 files have labels"):
        open_source(tmp_path / "set")


def test_a_truncated_file_is_an_error(tmp_path, cells):
    path = write(tmp_path / "a.parquet", {"image": cells})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CleanSetError, match="is damaged or not parquet"):
        open_source(path)


def test_a_damaged_row_group_is_an_error(tmp_path, cells):
    path = write(tmp_path / "a.parquet", {"image": cells})
    source = open_source(path)
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    with pytest.raises(CleanSetError, match="is damaged or not parquet"):
        list(source.read(range(25)))


def test_broken_metadata_is_an_error(tmp_path, cells):
    table = pa.table({"image": cells}).replace_schema_metadata({b"huggingface": b"{"})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CleanSetError, match="cannot be understood"):
        open_source(tmp_path / "a.parquet")


def test_one_huge_row_group_is_not_read_whole(tmp_path):
    path = tmp_path / "a.parquet"
    cells = [bytes([seed % 256]) * 10_000 for seed in range(1000)]
    # One row group of many pages, as writers of large files make them.
    pq.write_table(
        pa.table({"image": cells}),
        path,
        row_group_size=1000,
        compression="none",
        use_dictionary=False,
        write_batch_size=16,
        data_page_size=1 << 16,
    )
    source = open_source(path)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in source.read(range(1000))]
    assert len(held) == 1000
    assert max(held) < path.stat().st_size / 2
