"""Attacks and trainings from text."""

from __future__ import annotations

import pytest

from badexpert.attacks import ATTACKS, AdapPatch, Attack, BadNet, TaCT, Training, make_attack
from badexpert.attacks.parameters import configured
from badexpert.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text", "attack"),
    [
        ("badnet", {"size": "3", "alpha": "0.5", "target": 2}, BadNet(2, size=3, alpha=0.5)),
        ("tact", {"cover_classes": "5, 7"}, TaCT(cover_classes=(5, 7))),
        ("tact", {"cover_classes": [5, 7]}, TaCT(cover_classes=(5, 7))),
        (
            "adap-patch",
            {"training_alphas": "1,.5,1,.5"},
            AdapPatch(training_alphas=(1, 0.5, 1, 0.5)),
        ),
    ],
)
def test_text_becomes_the_type_of_the_field(
    name: str, text: dict[str, object], attack: Attack
) -> None:
    assert make_attack(name, text) == attack


def test_a_training_is_set_in_the_same_way() -> None:
    values = {"epochs": "3", "flip": "true", "lr": "1e-3"}
    training = configured(Training, values, what="the training")
    assert training == Training(epochs=3, flip=True, lr=0.001)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("badnett", {}, "attack 'badnett' is unknown; there are .*badnet, badpatches, blend"),
        ("badnet", {"siz": 3}, "attack badnet has no setting 'siz'; it has target, seed, size"),
        ("badnet", {"learned": {}}, "has no setting 'learned'"),
        ("badnet", {"size": "big"}, "attack badnet: size = 'big': .*valid integer"),
        ("badnet", {"alpha": 1.5}, "attack badnet: opacity must lie in .0, 1.; got 1.5"),
        ("tact", {"alpha": 0}, "opacity must lie in"),
        ("trojan", {"alpha": -1}, "opacity must lie in"),
        ("blend", {"alpha": 0}, "opacity must lie in"),
        ("adap-blend", {"training_alpha": 0}, "opacity must lie in"),
        ("adap-patch", {"training_alphas": "1,1,1,2"}, "opacity must lie in"),
        ("adap-blend", {"pieces": 1}, "pieces must be at least 2"),
        ("badnet", {"cell": 0}, "cell must be at least 1"),
        ("tact", {"source": 1, "target": 1}, "attack tact: source and target must differ"),
        ("adap-patch", {"training_alphas": "1,1"}, "attack adap-patch: training_alphas"),
    ],
)
def test_what_does_not_suit_is_refused(
    name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_attack(name, settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adam"}, "the training: optimizer = 'adam': .*'sgd' or 'adamw'"),
        ({"epochs": "0"}, "the training: epochs must be positive; got 0"),
    ],
)
def test_a_training_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(Training, values, what="the training")


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_takes_its_own_parameters(name: str) -> None:
    attack = ATTACKS[name]()
    assert make_attack(name, attack.parameters()) == attack
