from __future__ import annotations

import logging
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from badexpert.config import (
    CleanConfig,
    DetectionConfig,
    IgnoreEntry,
    ModelConfig,
    ReportConfig,
    ScanConfig,
)
from badexpert.errors import ConfigError
from badexpert.findings import Severity
from badexpert.settings import Resolved, leaves, resolve, to_json


def resolved(
    folder: Path,
    text: str = "",
    *,
    flags: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
) -> Resolved:
    if text:
        (folder / "badexpert.toml").write_text(text, encoding="utf-8")
    return resolve(flags or {}, environment=environment or {}, folder=folder)


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    outcome = resolved(tmp_path)
    assert outcome.config == ScanConfig()
    assert set(outcome.origins.values()) == {"default"}


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = "seed = 1\ndevice = 'cpu'\n[detection]\nfpr = 0.1\nworkers = 1"
    environment = {"BADEXPERT_SEED": "2", "BADEXPERT_DETECTION_FPR": "0.2"}
    outcome = resolved(tmp_path, file, flags={"seed": 3}, environment=environment)
    assert (outcome.config.seed, outcome.config.device) == (3, "cpu")
    assert outcome.config.detection == DetectionConfig(fpr=0.2, workers=1)
    origins = {key: outcome.origins[key] for key in ("seed", "detection.fpr", "detection.workers")}
    assert origins == {
        "seed": "flag",
        "detection.fpr": "environment BADEXPERT_DETECTION_FPR",
        "detection.workers": str(tmp_path / "badexpert.toml"),
    }
    assert outcome.origins["detection.batch_size"] == "default"


def test_every_kind_of_value_is_read_from_toml(tmp_path: Path) -> None:
    config = resolved(
        tmp_path,
        """
        [model]
        arch = "timm:vit_tiny_patch16_224"
        arch_args = {img_size = 32, dims = [1, 2]}
        preprocessing = {height = 28, width = 32, mean = [0.5], interpolation = "bicubic"}
        [report]
        formats = ["text", "sarif=a.sarif"]
        [[ignore]]
        id = "BX201"
        path = "models/*"
        statement = "a known test model"
        expires = 2027-01-31
        """,
    ).config
    assert config.model.arch_args == {"img_size": 32, "dims": [1, 2]}
    assert config.model.preprocessing.width == 32
    assert config.model.preprocessing.mean == (0.5,)
    assert config.report.formats == ("text", "sarif=a.sarif")
    assert config.ignore == (
        IgnoreEntry("BX201", "a known test model", "models/*", date(2027, 1, 31)),
    )


def test_lists_in_the_environment_are_written_as_in_toml(tmp_path: Path) -> None:
    environment = {"BADEXPERT_MODEL_PREPROCESSING_STD": "[0.5, 1]"}
    config = resolved(tmp_path, environment=environment).config
    assert config.model.preprocessing.std == (0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[detecion]\nfpr = 0.1", r"badexpert\.toml: key 'detecion' is unknown.*'detection"),
        ("[detection]\nfpt = 0.1", r"key 'detection\.fpt' is unknown.*'detection\.fpr'"),
        ("[model.preprocessing]\nsiz = 3", r"key 'model\.preprocessing\.siz' is unknown"),
        ("detection = 1", r"key 'detection' is unknown"),
        ("[detection]\nfpr = 1", r"detection: fpr must lie in \(0, 1\); got 1.*badexpert\.toml"),
        ("[detection]\nfpr = 'x'", r"detection\.fpr: .*valid number.*'x' from .*badexpert\.toml"),
        ("[report]\nfail_on = 'all'", r"report\.fail_on: .*'none', 'low'"),
        ("[[ignore]]\nid = 'BX201'", r"ignore\.0\.statement: Field required"),
        (
            "[[ignore]]\nid = 'BX201'\nstatement = 'ok'\nexpiry = 2027-01-01",
            r"ignore\.0\.expiry: Unexpected",
        ),
        ("[detection", r"badexpert\.toml is not TOML"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_key_and_path(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        resolved(tmp_path, text)


def test_an_unknown_variable_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BADEXPERT_DETECTION_FPT is unknown.*DETECTION_FPR"):
        resolved(tmp_path, environment={"BADEXPERT_DETECTION_FPT": "0.1", "HOME": "/"})


def test_the_project_file_is_found_upwards_and_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "badexpert.toml").write_text("seed = 4", encoding="utf-8")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        assert resolved(inner).config.seed == 4
    assert f"configuration found at {tmp_path / 'badexpert.toml'}" in caplog.text


def test_pyproject_counts_only_with_its_own_table(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[tool.other]\nx = 1", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[tool.badexpert]\nseed = 5", encoding="utf-8")
    assert resolved(inner).config.seed == 5


def test_a_named_file_replaces_the_project_file(tmp_path: Path) -> None:
    (tmp_path / "badexpert.toml").write_text("seed = 1\ndevice = 'cpu'", encoding="utf-8")
    named = tmp_path / "other.toml"
    named.write_text("seed = 2", encoding="utf-8")
    config = resolve({}, environment={}, folder=tmp_path, file=named).config
    assert (config.seed, config.device) == (2, "auto")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.toml cannot be read: No such file"):
        resolve({}, environment={}, folder=tmp_path, file=tmp_path / "nowhere.toml")


def test_a_file_that_was_only_found_cannot_choose_code_to_run(tmp_path: Path) -> None:
    text = "[model]\narch = 'python:os:system'"
    with pytest.raises(ConfigError, match="would run code.*--config"):
        resolved(tmp_path, text)
    named = resolve({}, environment={}, folder=tmp_path, file=tmp_path / "badexpert.toml")
    assert named.config.model.arch == "python:os:system"


def test_every_setting_has_its_own_environment_variable() -> None:
    keys = list(leaves(ScanConfig))
    assert len({key.replace(".", "_") for key in keys}) == len(keys)


def test_the_configuration_in_a_report_has_every_setting() -> None:
    document = to_json(ScanConfig(ignore=(IgnoreEntry("BX201", "ok", expires=date(2027, 1, 1)),)))
    assert document["ignore"][0]["expires"] == "2027-01-01"
    assert document["detection"]["fpr"] == 0.01


@pytest.mark.parametrize(
    "build",
    [
        lambda: ModelConfig(num_classes=1),
        lambda: CleanConfig(calibration=1.0),
        lambda: CleanConfig(limit=0),
        lambda: DetectionConfig(fpr=0.0),
        lambda: DetectionConfig(batch_size=0),
        lambda: DetectionConfig(workers=-1),
        lambda: IgnoreEntry("BX201", "  "),
    ],
)
def test_impossible_settings_cannot_be_built(build: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        build()


def test_the_gate_is_a_severity_or_nothing() -> None:
    assert ReportConfig(fail_on="high").gate is Severity.HIGH
    assert ReportConfig(fail_on="none").gate is None
