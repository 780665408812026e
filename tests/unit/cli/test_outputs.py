from __future__ import annotations

from pathlib import Path

import pytest

from badexpert.errors import ConfigError
from badexpert_cli.outputs import Target, deliver, new_folder, parse_targets, write_atomically

KNOWN = ("text", "json", "sarif")


def test_a_format_without_a_file_goes_to_stdout_or_to_the_output(tmp_path: Path) -> None:
    assert parse_targets(["json"], None, KNOWN) == (Target("json"),)
    assert parse_targets(["json"], tmp_path / "a", KNOWN) == (Target("json", tmp_path / "a"),)


def test_several_formats_in_one_run(tmp_path: Path) -> None:
    targets = parse_targets(["text", f"sarif={tmp_path}/a=b.sarif"], None, KNOWN)
    assert targets == (Target("text"), Target("sarif", tmp_path / "a=b.sarif"))


@pytest.mark.parametrize(
    ("formats", "output", "complaint"),
    [
        (["xml"], None, "format 'xml' is unknown; this command knows text, json, sarif"),
        (["json="], None, "names no file"),
        (["json", "text"], None, "stdout can take one document"),
        (["json={folder}/a", "sarif={folder}/a"], None, "a can take one document"),
        (["json={folder}/a"], "{folder}/b", "-o .*b has no document"),
        (["json={folder}"], None, "is a folder"),
        (["json={folder}/missing/a"], None, "cannot be written: No such file"),
        (["json"], "{folder}/file/a", "cannot be written: Not a directory"),
    ],
)
def test_what_cannot_be_written_is_known_at_once(
    tmp_path: Path, formats: list[str], output: str | None, complaint: str
) -> None:
    (tmp_path / "file").touch()
    values = [value.format(folder=tmp_path) for value in formats]
    place = Path(output.format(folder=tmp_path)) if output else None
    with pytest.raises(ConfigError, match=complaint):
        parse_targets(values, place, KNOWN)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_trying_a_place_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old", encoding="utf-8")
    parse_targets(["json"], tmp_path / "a", KNOWN)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"


def test_documents_reach_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deliver([Target("json"), Target("sarif", tmp_path / "a")], lambda target: target.format)
    assert capsys.readouterr().out == "json"
    assert (tmp_path / "a").read_text(encoding="utf-8") == "sarif"


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \udcff")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "a", "text")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def fill_half(path: Path) -> None:
    with new_folder(path) as inner:
        (inner / "half").touch()
        raise KeyboardInterrupt


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        fill_half(path)
    assert list(tmp_path.iterdir()) == []
    with new_folder(path) as inner:
        (inner / "whole").touch()
        assert not path.exists()
    assert [item.name for item in path.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "precious").touch()
    with pytest.raises(ConfigError, match="exists already"), new_folder(tmp_path / "bundle"):
        pass


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with new_folder(tmp_path / "bundle") as inner:
        (inner / "file").touch()
    assert (tmp_path / "bundle" / "file").exists()
