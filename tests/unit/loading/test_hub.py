"""``hf:ORG/NAME@REVISION`` against a local cache, without a network."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

import pytest
from huggingface_hub import constants

from badexpert.errors import ModelLoadError
from badexpert.loading import hub, load_suspect
from badexpert.loading.hub import fetch
from tests.unit.loading.test_load_suspect import timm_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def snapshot(cache: Path) -> Path:
    """The folder of org/tiny at main, laid out as the cache lays it out: links to blobs."""
    repository = cache / "models--org--tiny"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def link_to_blobs(folder: Path) -> None:
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(Path("../../blobs") / file.name)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_cached_model_loads_without_a_network(cache: Path, revision: str) -> None:
    folder = snapshot(cache)
    timm_folder(folder)
    link_to_blobs(folder)
    suspect = load_suspect(f"hf:org/tiny{revision}")
    assert suspect.num_classes == 9
    assert suspect.origin.source == f"hf:org/tiny{revision}"
    assert COMMIT in suspect.origin.files[0].path


def test_a_model_that_is_not_cached_cannot_be_reached(cache: Path) -> None:
    with pytest.raises(ModelLoadError, match="not in the local cache"):
        fetch("hf:org/tiny@main")


def test_a_repository_without_safetensors_is_refused(cache: Path) -> None:
    (snapshot(cache) / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(ModelLoadError, match="has no safetensors"):
        fetch("hf:org/tiny@main")


def test_neither_code_nor_pickles_are_asked_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        raise OSError("no network in tests")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(ModelLoadError, match="cannot be fetched: no network in tests"):
        fetch("hf:org/tiny")
    names = ("pytorch_model.bin", "modeling.py", "model.pt", "m.ckpt", "m.pth", "x.pkl")
    assert asked
    assert not any(fnmatch(name, pattern) for name in names for pattern in asked)


def test_an_error_of_the_network_without_a_message_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TimedOutError(Exception):
        pass

    def download(*_: object, **__: object) -> str:
        raise TimedOutError

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(ModelLoadError, match="cannot be fetched: TimedOutError"):
        fetch("hf:org/tiny")


@pytest.mark.parametrize("source", ["hf:", "hf:tiny", "hf:a/b/c", "hf:../evil/name", "hf:a/b@"])
def test_malformed_references_are_refused(cache: Path, source: str) -> None:
    with pytest.raises(ModelLoadError, match="hf:ORG/NAME@REVISION"):
        fetch(source)
