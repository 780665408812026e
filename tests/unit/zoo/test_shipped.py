"""The recipes that ship: what they hold, and what they cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from badexpert.attacks import ATTACKS, name_of
from badexpert.loading import PreprocessingOverrides
from badexpert.loading.untrained import untrained_suspect
from badexpert.zoo import Recipe, read_recipe
from badexpert.zoo.entries import Entry, entries_of

CONFIGS = Path(__file__).parents[3] / "configs"
SIZES = {"digits": 898, "cifar10": 50_000, "gtsrb": 39_209}
"""Training images, where the recipe sets no limit."""

MODELS = {"zoo-smoke": 12, "zoo-moe": 4, "zoo-cpu": 86, "zoo-rates": 42, "zoo-paper": 894}
MILLIONS = {"zoo-smoke": 0.25, "zoo-moe": 0.15, "zoo-cpu": 21.6, "zoo-rates": 50, "zoo-paper": 260}
"""Images to train on, at most: two cores that each do 1,000 a second of those of ``zoo-cpu`` do so
many in three hours."""

ON_EXPERTS = {"badpatches"}
"""Attacks on networks that only ``zoo-moe`` has."""


def recipe(name: str) -> Recipe:
    return read_recipe(CONFIGS / f"{name}.toml")


def entries(name: str) -> tuple[Entry, ...]:
    return entries_of(recipe(name))


def images_to_train(chosen: tuple[Entry, ...]) -> int:
    return sum(
        entry.training.epochs * (entry.spec.train_samples or SIZES[entry.data]) for entry in chosen
    )


def test_all_shipped_recipes_are_known_here() -> None:
    assert {path.stem for path in CONFIGS.glob("zoo-*.toml")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_is_as_large_as_it_says(name: str) -> None:
    made = entries(name)
    assert len(made) == MODELS[name]
    assert sum(entry.planted is None for entry in made) == len(made) / 2
    assert images_to_train(made) <= MILLIONS[name] * 1e6
    assert (CONFIGS / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_can_be_built_and_every_table_is_used(name: str) -> None:
    whole = recipe(name)
    made = entries(name)
    assert {entry.data for entry in made} == set(whole.data)
    assert {entry.architecture for entry in made} == set(whole.architectures)
    assert {entry.attack for entry in made} - {None} == set(whole.attacks)
    for spec, data in {entry.architecture: (entry.network, entry.spec) for entry in made}.values():
        known = PreprocessingOverrides(**asdict(data.preprocessing))
        suspect = untrained_suspect(
            spec.arch, num_classes=10, arch_args=spec.arch_args, preprocessing=known
        )
        assert suspect.num_classes == 10


def test_rates_are_the_papers_own() -> None:
    on_gtsrb = {"all-to-all": 0.01}
    assert {name: spec.rate for name, spec in recipe("zoo-rates").attacks.items() if spec.rate} == (
        on_gtsrb
    )


@pytest.mark.parametrize("name", ["zoo-cpu", "zoo-paper"])
def test_every_attack_is_in_the_large_recipes(name: str) -> None:
    planted = {name_of(entry.planted) for entry in entries(name) if entry.planted is not None}
    assert planted == set(ATTACKS) - ON_EXPERTS
