"""A small grid on a zoo of digits: every number has its cell, and no cell is measured twice."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from badexpert.bench import plan, tables, workbench
from badexpert.bench.cells import read_cell
from badexpert.bench.grid import run_bench
from badexpert.bench.recipe import BenchRecipe
from badexpert.bench.results import Results
from badexpert.bench.summary import auroc, summarise
from badexpert.errors import ConfigError, ModelLoadError
from badexpert.runtime import RunContext
from badexpert.zoo import Zoo, build_zoo, read_recipe, read_zoo

ZOO = """
[data.digits]
train = "sklearn:digits"
preprocessing = { height = 8, width = 8, channels = 1, mean = [0.0], std = [1.0] }
training = { epochs = 8, batch_size = 64, lr = 0.05 }

[architectures.plain]
arch = "python:tests.small_models:plain"

[attacks.patch]
attack = "badnet"
rate = 0.1
settings = { size = 3 }

[[grid]]
least_accuracy = 0.8
"""
BACKDOORED, TWIN = "digits-plain-patch-s0", "digits-plain-patch-s0-twin"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> BenchRecipe:
    """IBD-PSC cannot work on a network without batch-norm."""
    path = tmp_path_factory.mktemp("recipes") / "zoo.toml"
    path.write_text(ZOO, encoding="utf-8")
    return BenchRecipe(
        zoo=path,
        detectors=("badexpert", "max-softmax", "ibd-psc"),
        clean_sizes=(120,),
        seeds=(0, 1),
        fpr=0.05,
        tested=150,
        factories=("python:tests.small_models:plain",),
    )


@pytest.fixture(scope="module")
def measured(recipe: BenchRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results, never to be changed."""
    folder = tmp_path_factory.mktemp("results")
    zoo = build_zoo(read_recipe(recipe.zoo), folder / "zoo", device=RunContext().device, jobs=1)
    run_bench(recipe, zoo, folder, RunContext(), jobs=1)
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    """A copy of the results, with the zoo in it."""
    return Path(shutil.copytree(measured, tmp_path / "results"))


@pytest.fixture
def zoo(folder: Path) -> Zoo:
    return read_zoo(folder / "zoo")


def document(folder: Path, model: str, detector: str, seed: int = 0) -> dict[str, object]:
    path = folder / "cells" / f"{model}--{detector}--120--{seed}.json"
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_cell_has_a_file_that_says_what_was_measured(measured: Path) -> None:
    results = Results.read(measured)
    assert len(results.cells) == len(list((measured / "cells").iterdir())) == 2 * 3 * 2
    cell = document(measured, BACKDOORED, "badexpert")
    detection, cost = cell["detection"], cell["cost"]
    assert isinstance(detection, dict)
    assert isinstance(cost, dict)
    assert detection["attack_success_rate"] > 0.9
    assert detection["auroc"] > 0.9
    assert detection["tpr_at_01_fpr"] is None, "150 clean inputs say nothing about one in 1,000"
    assert cost["seconds_to_extract"] > 0
    assert cost["speed"]["ratio"] > 1
    assert cell["false_positives"] is None


def test_detectors_meet_the_same_inputs(measured: Path) -> None:
    by_detector = [document(measured, BACKDOORED, name) for name in ("badexpert", "max-softmax")]
    one, other = (cell["detection"] for cell in by_detector)
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    for name in ("clean_accuracy", "attack_success_rate"):
        assert one[name] == other[name]
    assert one["auroc"] != other["auroc"]


def test_a_benign_twin_is_shown_its_counterparts_trigger(measured: Path) -> None:
    cell = document(measured, TWIN, "max-softmax")
    flagged = cell["false_positives"]
    assert isinstance(flagged, dict)
    assert cell["detection"] is None
    assert flagged["clean_accuracy"] > 0.9
    assert 0 <= flagged["clean"] <= 0.3
    assert 0 <= flagged["stamped"] <= 1


def test_a_cell_that_cannot_be_measured_is_shown_with_its_reason(measured: Path) -> None:
    results = Results.read(measured)
    assert {cell.place.detector for cell in results.failed} == {"ibd-psc"}
    text = tables.render(results)
    [row] = re.findall(r"^\| ibd-psc \| 120 \|.*$", text, re.MULTILINE)
    assert f"| 4 | {BACKDOORED}, {TWIN} | ibd-psc amplifies weight and bias of batch-norm" in row
    assert "| ibd-psc | 0 of 4 | - |" in text


def test_the_tables_hold_the_numbers_of_the_cells(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.main([str(measured)])
    text = capsys.readouterr().out
    found = []
    for seed in (0, 1):
        detection = document(measured, BACKDOORED, "max-softmax", seed)["detection"]
        assert isinstance(detection, dict)
        found.append(detection["auroc"])
    mean, deviation = sum(found) / 2, abs(found[0] - found[1]) / 2**0.5
    [row] = re.findall(r"^\| max-softmax \| 4 of 4 \| ([^|]*) \|", text, re.MULTILINE)[:1]
    assert row == f"{mean:.4f} ± {deviation:.4f}"
    [lowest] = re.findall(r"^\| lowest cell \| [^|]* \| ([^|]*) \|", text, re.MULTILINE)[:1]
    assert lowest == f"{min(found):.4f}"


def test_what_is_measured_is_not_measured_again(
    recipe: BenchRecipe, zoo: Zoo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Results.read(folder)
    monkeypatch.setattr(workbench, "extract", forbidden)
    monkeypatch.setattr(workbench, "measure", forbidden)
    assert run_bench(recipe, zoo, folder, RunContext(), jobs=1) == before


def test_two_processes_measure_the_same_as_one(
    recipe: BenchRecipe, zoo: Zoo, measured: Path, tmp_path: Path
) -> None:
    recipe = replace(recipe, detectors=("badexpert", "max-softmax"), seeds=(0,))
    beside = run_bench(recipe, zoo, tmp_path, RunContext(), jobs=2)
    alone = {cell.place: cell for cell in Results.read(measured).cells}
    assert len(beside.cells) == 4
    for cell in beside.cells:
        other = alone[cell.place]
        assert (cell.detection, cell.false_positives) == (other.detection, other.false_positives)
        assert cell.digest == other.digest


def forbidden(*arguments: object, **named: object) -> None:
    raise AssertionError("measured again")


def test_only_what_is_missing_or_out_of_date_is_measured(
    recipe: BenchRecipe, zoo: Zoo, folder: Path
) -> None:
    recipe = replace(recipe, detectors=("max-softmax",))
    files = sorted((folder / "cells").glob("*--max-softmax--*"))
    before = [path.stat().st_mtime_ns for path in files]
    gone, stale, torn, kept = files
    was = read_cell(gone).detection or read_cell(gone).false_positives
    gone.unlink()
    torn.write_text(torn.read_text()[:100])
    stale.write_text(stale.read_text().replace(read_cell(stale).digest, "0" * 64))
    results = run_bench(recipe, zoo, folder, RunContext(), jobs=1)
    assert not results.missing
    assert not results.failed
    assert len(results.cells) == 4
    assert (read_cell(gone).detection or read_cell(gone).false_positives) == was
    assert kept.stat().st_mtime_ns == before[3]
    assert stale.stat().st_mtime_ns > before[1]


def test_only_models_that_were_named_are_measured(
    recipe: BenchRecipe, zoo: Zoo, tmp_path: Path
) -> None:
    recipe = replace(recipe, detectors=("max-softmax",), seeds=(0,))
    results = run_bench(recipe, zoo, tmp_path, RunContext(), jobs=1, only=["*-twin"])
    assert [cell.place.model for cell in results.cells] == [TWIN]
    assert [place.model for place in results.missing] == [BACKDOORED]
    with pytest.raises(ConfigError, match="no model of the zoo matches resnet"):
        run_bench(recipe, zoo, tmp_path, RunContext(), jobs=1, only=["resnet"])


def test_other_settings_make_other_cells(recipe: BenchRecipe, zoo: Zoo, folder: Path) -> None:
    recipe = replace(recipe, detectors=("max-softmax",), seeds=(0,), fpr=0.1)
    path = folder / "cells" / f"{BACKDOORED}--max-softmax--120--0.json"
    old = read_cell(path)
    run_bench(recipe, zoo, folder, RunContext(), jobs=1)
    new = read_cell(path)
    assert new.digest != old.digest
    assert new.detection is not None
    assert new.detection.stated_fpr == 0.1


def test_a_detector_whose_code_changed_is_measured_again(
    recipe: BenchRecipe, zoo: Zoo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe, detectors=("max-softmax",), seeds=(0,))
    before = Results.read(folder).cells
    monkeypatch.setattr(plan, "code_of", lambda kind: "other code")
    after = run_bench(recipe, zoo, folder, RunContext(), jobs=1).cells
    assert not {cell.digest for cell in before} & {cell.digest for cell in after}


def test_words_about_a_detector_are_not_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def digest(name: str, word: str, value: int) -> str:
        lines = [
            "from badexpert.detectors.confidence import MaxSoftmax",
            "class Kind(MaxSoftmax):",
            f'    """{word}"""',
            f"    offset = {value}  # {word}",
            f'    """{word}"""',
        ]
        (tmp_path / f"{name}.py").write_text("\n".join(lines))
        return plan.code_of(import_module(name).Kind)

    first = digest("first_kind", "one", 1)
    assert digest("second_kind", "another", 1) == first
    assert digest("third_kind", "one", 2) != first


def test_what_the_machine_is_to_blame_for_is_tried_again(
    recipe: BenchRecipe, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe, detectors=("max-softmax",), seeds=(0,))
    with monkeypatch.context() as patched:
        patched.setattr(workbench, "measure", out_of_memory)
        results = run_bench(recipe, zoo, tmp_path, RunContext(), jobs=1)
    assert [cell.error for cell in results.failed] == ["OutOfMemoryError: no memory left"] * 2
    assert not run_bench(recipe, zoo, tmp_path, RunContext(), jobs=1).missing


def out_of_memory(*arguments: object) -> None:
    raise torch.OutOfMemoryError("no memory left\nand much more text")


def test_a_clean_set_that_is_too_small_or_too_large_is_a_failed_cell(
    recipe: BenchRecipe, zoo: Zoo, tmp_path: Path
) -> None:
    recipe = replace(recipe, detectors=("max-softmax",), seeds=(0,), clean_sizes=(20, 1000))
    results = run_bench(recipe, zoo, tmp_path, RunContext(), jobs=1)
    reasons = {cell.place.clean_size: cell.error or "" for cell in results.cells}
    assert "needs at least 19 calibration samples" in reasons[20]
    assert "cannot take 1000 of 209 samples" in reasons[1000]


def test_a_changed_model_is_refused(recipe: BenchRecipe, zoo: Zoo, folder: Path) -> None:
    shutil.copy(folder / "zoo" / TWIN / "model.safetensors", folder / "zoo" / BACKDOORED)
    shutil.rmtree(folder / "cells")
    with pytest.raises(ModelLoadError, match="was changed"):
        run_bench(recipe, zoo, folder, RunContext(), jobs=1)


def test_test_images_must_leave_some_for_the_defender(
    recipe: BenchRecipe, zoo: Zoo, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="digits has 359 test images; tested = 359"):
        run_bench(replace(recipe, tested=359), zoo, tmp_path, RunContext(), jobs=1)


def test_a_twin_whose_counterpart_is_not_there_is_left_out(
    recipe: BenchRecipe, zoo: Zoo, tmp_path: Path
) -> None:
    index = replace(zoo.index, models=zoo.index.models[1:])
    with pytest.raises(ConfigError, match="no models that count, 1 that are kept apart"):
        run_bench(
            recipe, replace(zoo, models=zoo.models[1:], index=index), tmp_path, RunContext(), jobs=1
        )


def test_a_run_that_was_cut_off_shows_what_it_did_not_reach(folder: Path) -> None:
    (folder / "cells" / f"{TWIN}--badexpert--120--1.json").unlink()
    results = Results.read(folder)
    assert len(results.missing) == 1
    assert f"| badexpert | 120 | 1 | {TWIN} | not reached yet |" in tables.render(results)


def test_runs_are_averaged_over_models_first(measured: Path) -> None:
    cells = [cell for cell in Results.read(measured).cells if auroc(cell) is not None]
    one = [cell for cell in cells if cell.place.seed == 0]
    summary = summarise(one, auroc)
    assert summary is not None
    assert summary.deviation is None, "a single run has no spread"
    assert summary.cells == len(one) == 2


def test_a_zoo_may_not_choose_code_to_run(zoo: Zoo) -> None:
    hostile = replace(zoo.models[0].truth, architecture="python:os:system", arch_args={})
    with pytest.raises(ModelLoadError, match=r"python:os:system; a zoo may not choose code"):
        replace(zoo.models[0], truth=hostile).suspect()
