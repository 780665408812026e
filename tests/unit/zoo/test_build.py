"""A zoo on digits: what is made, what is kept apart, what is not made twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from badexpert.attacks import Images
from badexpert.attacks.success import measure_success
from badexpert.errors import AttackError, CleanSetError, ConfigError, ModelLoadError, ZooError
from badexpert.models.origin import digest_file
from badexpert.zoo import Recipe, Zoo, build_zoo, make, open_data, read_recipe, read_zoo
from badexpert.zoo.make import make_model

CPU = torch.device("cpu")
BADNET, TWIN = "digits-cnn-badnet-s0", "digits-cnn-badnet-s0-twin"
TEXT = """
[data.digits]
train = "sklearn:digits"
held_out = 0.5
preprocessing = { height = 8, width = 8, channels = 1, mean = [0.5], std = [0.25] }
training = { epochs = 12, batch_size = 64 }

[architectures.cnn]
arch = "python:badexpert.bench.networks:small_cnn"

[attacks.badnet]
rate = 0.05
settings = { size = 3 }

[[grid]]
least_accuracy = 0.8
"""
HASTY = ("epochs = 12", "epochs = 1")


def recipe_of(folder: Path, *changes: tuple[str, str]) -> Recipe:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return read_recipe(folder / "recipe.toml")


def build(recipe: Recipe, folder: Path, **options: Any) -> Zoo:
    return build_zoo(recipe, folder, device=CPU, **{"jobs": 1, **options})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    folder = tmp_path_factory.mktemp("zoo")
    return build(recipe_of(folder), folder / "zoo")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that a build wants to make; none of them is made."""
    names: list[str] = []

    def refuse(entry: Any, *rest: object) -> None:
        names.append(entry.name)
        raise AttackError("not today")

    monkeypatch.setattr(make, "make_model", refuse)
    return names


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_and_its_twin_are_made_and_counted(zoo: Zoo) -> None:
    assert [model.name for model in zoo.models] == [BADNET, TWIN]
    assert files_below(zoo.path) == [BADNET, TWIN, "zoo.json"]
    backdoored, twin = zoo.models
    assert (backdoored.truth.attack, twin.truth.attack) == ("badnet", None)
    assert (backdoored.row.attack, twin.row.twin_of) == ("badnet", BADNET)
    assert backdoored.truth.attack_success_rate is not None
    assert backdoored.truth.attack_success_rate >= 0.8
    assert (backdoored.truth.trained, backdoored.truth.poisoned) == (898, 45)
    assert not zoo.index.apart
    assert not zoo.index.missing


def test_a_model_is_what_its_truth_says_on_images_that_it_has_not_seen(zoo: Zoo) -> None:
    data = open_data(zoo.data["digits"], "digits")
    assert not set(data.train.indices.tolist()) & set(data.test.indices.tolist())
    for model in zoo.models:
        assert digest_file(model.path / "model.safetensors").sha256 == model.truth.sha256
        success = measure_success(
            model.suspect().network, model.attack(), Images.read(data.test), CPU
        )
        assert success.clean_accuracy == model.truth.clean_accuracy
        assert success.attack_success_rate == model.truth.attack_success_rate
        assert success.tested == model.truth.tested == 899


def test_what_is_there_is_not_made_again(zoo: Zoo, tmp_path: Path, asked: list[str]) -> None:
    again = build(recipe_of(tmp_path), zoo.path)
    assert asked == []
    assert again == zoo == read_zoo(zoo.path)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (("rate = 0.05", "rate = 0.1"), [BADNET]),
        (("batch_size = 64", "batch_size = 32"), [BADNET, TWIN]),
        (("held_out = 0.5", "held_out = 0.4"), [BADNET, TWIN]),
        (("least_accuracy = 0.8", "least_accuracy = 0.7"), []),
    ],
    ids=str,
)
def test_what_has_changed_is_made_again(
    change: tuple[str, str], again: list[str], zoo: Zoo, tmp_path: Path, asked: list[str]
) -> None:
    before = (zoo.path / "zoo.json").read_text(encoding="utf-8")
    try:
        build(recipe_of(tmp_path, change), zoo.path)
    finally:
        (zoo.path / "zoo.json").write_text(before, encoding="utf-8")
    assert asked == again


def test_an_attack_that_did_not_take_is_kept_apart_with_its_model(tmp_path: Path) -> None:
    zoo = build(
        recipe_of(tmp_path, HASTY, ("least_accuracy = 0.8", "least_accuracy = 0.0")),
        tmp_path / "zoo",
    )
    assert [model.name for model in zoo.models] == [TWIN]
    [apart] = zoo.index.apart
    assert (apart.name, apart.made) == (BADNET, True)
    assert apart.reason.startswith("attack success rate 0.")
    assert apart.reason.endswith("is below 0.8")
    assert (zoo.path / BADNET / "truth.json").exists()


def test_a_poor_model_is_kept_apart_benign_or_not(zoo: Zoo, tmp_path: Path) -> None:
    """The bar may be raised after the training."""
    before = (zoo.path / "zoo.json").read_text(encoding="utf-8")
    stricter = build(
        recipe_of(tmp_path, ("least_accuracy = 0.8", "least_accuracy = 1.0")), zoo.path
    )
    (zoo.path / "zoo.json").write_text(before, encoding="utf-8")
    assert stricter.models == ()
    assert [row.name for row in stricter.index.apart] == [BADNET, TWIN]
    assert all("clean accuracy 0." in row.reason for row in stricter.index.apart)


def test_what_cannot_be_made_is_said_and_the_rest_is_made(tmp_path: Path) -> None:
    zoo = build(
        recipe_of(
            tmp_path, HASTY, ("rate = 0.05", "rate = 0.99"), ("accuracy = 0.8", "accuracy = 0")
        ),
        tmp_path / "zoo",
    )
    assert [model.name for model in zoo.models] == [TWIN]
    [apart] = zoo.index.apart
    assert not apart.made
    assert "can poison 1 to" in apart.reason
    assert not (zoo.path / BADNET).exists()


def test_only_what_is_asked_for_is_made(tmp_path: Path) -> None:
    """The images of the rest need not be there."""
    other = TEXT[: TEXT.index("[architectures")].replace("digits]", "other]")
    other = other.replace('train = "sklearn:digits"\n', "")
    recipe = recipe_of(tmp_path, HASTY, ("[architectures.cnn]", f"{other}\n[architectures.cnn]"))
    zoo = build(recipe, tmp_path / "zoo", only=["digits-*-twin", "nothing"])
    assert files_below(zoo.path) == [TWIN, "zoo.json"]
    assert zoo.index.missing == (
        BADNET,
        "other-cnn-badnet-s0",
        "other-cnn-badnet-s0-twin",
    )
    with pytest.raises(ConfigError, match="where the images of other are; give --data other=PATH"):
        build(recipe, tmp_path / "zoo")
    with pytest.raises(ConfigError, match="no model of the recipe matches x-"):
        build(recipe, tmp_path / "zoo", only=["x-*"])


def test_models_that_were_not_asked_for_stay_in_the_index(
    zoo: Zoo, tmp_path: Path, asked: list[str]
) -> None:
    again = build(recipe_of(tmp_path), zoo.path, only=[TWIN])
    assert [model.name for model in again.models] == [BADNET, TWIN]


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A build that is interrupted while the second model is written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def run() -> Path:
        recipe = recipe_of(tmp_path, HASTY, ("least_accuracy = 0.8", "least_accuracy = 0.0"))
        build(recipe, tmp_path / "zoo", only=[TWIN])
        with monkeypatch.context() as patch:
            patch.setattr(make, "keep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                build(recipe, tmp_path / "zoo")
        return tmp_path / "zoo"

    return run


def test_an_interruption_leaves_nothing_half_written(interrupted: Callable[[], Path]) -> None:
    folder = interrupted()
    assert files_below(folder) == [TWIN, "zoo.json"]
    zoo = read_zoo(folder)
    assert [model.name for model in zoo.models] == [TWIN]
    assert zoo.index.missing == (BADNET,)


def test_a_build_goes_on_where_it_was_interrupted(
    interrupted: Callable[[], Path], tmp_path: Path, asked: list[str]
) -> None:
    folder = tmp_path / "zoo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "make_model", make_model)
        interrupted()
    build(recipe_of(tmp_path, HASTY), folder)
    assert asked == [BADNET]


def test_images_that_are_not_there_stop_the_build_before_it_begins(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path).with_data({"digits": str(tmp_path / "no.npz")}, {})
    with pytest.raises(CleanSetError, match="does not exist"):
        build(recipe, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_a_damaged_index_and_a_missing_one_are_named(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no index of a zoo"):
        read_zoo(tmp_path)
    (tmp_path / "zoo.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="recipe"):
        read_zoo(tmp_path)
    document = json.loads((zoo.path / "zoo.json").read_text(encoding="utf-8"))
    (tmp_path / "zoo.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ModelLoadError, match="is no ground truth"):
        read_zoo(tmp_path)


def test_processes_side_by_side_make_the_same_models(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, HASTY, ("least_accuracy = 0.8", "least_accuracy = 0.0"))
    here, beside = (build(recipe, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert [row.name for row in beside.index.apart] == [BADNET]
    assert [model.name for model in beside.models] == [TWIN]
    [mine], [theirs] = here.models, beside.models
    assert theirs.truth.sha256 == mine.truth.sha256


@pytest.mark.slow
def test_a_process_that_dies_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os\n\ndef build(num_classes=10):\n    os._exit(9)\n"
    (tmp_path / "dying.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = recipe_of(
        tmp_path, ("python:badexpert.bench.networks:small_cnn", "python:dying:build")
    )
    with pytest.raises(ZooError, match="processes that make models died"):
        build(recipe, tmp_path / "zoo", jobs=2)
    assert read_zoo(tmp_path / "zoo").index.missing == (BADNET, TWIN)
