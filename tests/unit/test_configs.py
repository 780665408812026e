"""Every configuration that ships is valid and says what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from badexpert.config import ScanConfig
from badexpert.detectors import DETECTORS
from badexpert.settings import resolve

CONFIGS = Path(__file__).parents[2] / "configs"
# Recipes of models, zoos and benchmarks are other kinds of files, and have tests of their own.
RECIPES = ("moe-", "zoo-", "bench-", "text-")
FILES = sorted(path for path in CONFIGS.rglob("*.toml") if not path.name.startswith(RECIPES))

PAPER = {
    "paper-cifar10-resnet18": (1e-4, 128, 0.1, 0.1, 0.5, 0.01),
    "paper-cifar10-vgg16": (8e-5, 128, 0.2, 0.1, 0.4, 0.01),
    "paper-cifar10-mobilenetv2": (5e-5, 128, 0.2, 0.1, 0.2, 0.01),
    "paper-cifar10-resnet110": (1e-2, 128, 0.05, 0.1, 0.5, 0.01),
    "paper-gtsrb-resnet18": (2.5e-5, 128, 0.05, 0.2, 0.5, 0.001),
    "paper-imagenet-resnet18": (1e-4, 256, 0.05, 0.1, 0.5, 0.001),
    "paper-imagenet-vgg": (1e-4, 256, 0.05, 0.1, 0.4, 0.001),
    "paper-imagenet-resnet101": (1e-4, 128, 1e-5, 0.1, 0.5, 0.001),
    "paper-imagenet-vit": (1e-6, 128, 2e-4, 0.1, 0.5, 0.001),
}
"""Learning rate and batch size of the expert, learning rate and decay of the auxiliary, slope, fpr;
Xie et al., arXiv:2308.12439, and its public code."""


def read(path: Path) -> ScanConfig:
    return resolve({}, environment={}, folder=path.parent, file=path).config


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    outcome = resolve({}, environment={}, folder=path.parent, file=path)
    assert str(path) in outcome.origins.values()
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_strict_policy_lets_nothing_through() -> None:
    [path] = [path for path in FILES if path.stem == "policy-strict"]
    report = read(path).report
    assert (report.fail_on, report.allow_inconclusive, report.exit_zero) == ("low", False, False)


def test_every_recipe_of_the_paper_is_in_the_table() -> None:
    assert {path.stem for path in FILES if path.stem.startswith("paper-")} == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper_hold_its_numbers(name: str) -> None:
    [path] = [path for path in FILES if path.stem == name]
    config = read(path)
    paper = config.extraction.paper
    assert (
        paper.expert_lr,
        paper.expert_batch_size,
        paper.auxiliary_lr,
        paper.auxiliary_decay,
        paper.slope,
        config.detection.fpr,
    ) == PAPER[name]
    assert (paper.expert_epochs, paper.auxiliary_epochs) == (1, 10)
    assert config.extraction.method == "paper"
    assert config.detection.detector == "badexpert-paper"


def test_the_default_recipe_states_the_defaults() -> None:
    [path] = [path for path in FILES if path.stem == "default"]
    assert read(path) == ScanConfig()


def test_what_the_default_recipe_leaves_out_may_be_put_in(tmp_path: Path) -> None:
    """Lines such as ``# limit = 2000`` are settings as they stand."""
    [path] = [path for path in FILES if path.stem == "default"]
    text = re.sub(r"^# (?=\w+ = )", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(text, encoding="utf-8")
    config = read(tmp_path / "all.toml")
    assert config.extraction.tail_share == 0.15
    assert config.model.preprocessing.height == 32
    assert config.detection.detector in DETECTORS
