"""The models of a recipe, one by one: all that decides what each of them will be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product

from badexpert.attacks.text import TextAttack, make_text_attack
from badexpert.errors import ConfigError
from badexpert.findings import Json
from badexpert.zoo.text.recipe import (
    UNTOUCHED,
    BaseSpec,
    TextAttackSpec,
    TextData,
    TextGrid,
    TextRecipe,
)


@dataclass(frozen=True)
class TextEntry:
    """A model to be made.

    Attributes:
        name: of its folder, unique in the zoo.
        data: name of its texts.
        base: name of its base in the recipe.
        base_seed: of the base's training.
        label: the attack's name in the recipe.
        kind: key in ``TEXT_ATTACKS``; None for the base as it is.
        attack: the attack; None for the base as it is.
        seed: of the attack.
        texts: the texts.
        spec: the base.
        adapter: whether it is kept as an adapter on its base.
    """

    name: str
    data: str
    base: str
    base_seed: int
    label: str
    kind: str | None
    attack: TextAttack | None
    seed: int
    texts: TextData
    spec: BaseSpec
    adapter: bool

    @property
    def base_name(self) -> str:
        """Of the folder of its base."""
        return f"{self.data}-{self.base}-b{self.base_seed}"

    def base_settings(self, digests: Mapping[str, str]) -> dict[str, Json]:
        """All that decides what the base will be, as JSON keeps it.

        Args:
            digests: of the training and the test texts.
        """
        return _plain(
            {
                "texts": dict(digests),
                "words": self.texts.words,
                "prompt": asdict(self.texts.prompt),
                "base": asdict(self.spec),
                "base_seed": self.base_seed,
            }
        )

    def settings(self, digests: Mapping[str, str]) -> dict[str, Json]:
        """The same of the model."""
        planted = {
            "attack": self.kind,
            "parameters": {} if self.attack is None else self.attack.parameters(),
            "seed": self.seed,
        }
        if self.adapter:
            planted["adapter"] = True
        return self.base_settings(digests) | _plain(planted)


def text_entries(recipe: TextRecipe) -> tuple[TextEntry, ...]:
    """Every model of a recipe.

    Raises:
        ConfigError: a setting of an attack is wrong, or two grids make the same model.
    """
    entries = tuple(entry for grid in recipe.grid for entry in _combinations(recipe, grid))
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two grids of the recipe make {twice[0]}. Name it in one of them only")
    return entries


def _combinations(recipe: TextRecipe, grid: TextGrid) -> Iterator[TextEntry]:
    for data, base, label, base_seed, seed in product(
        grid.data or recipe.data,
        grid.bases or recipe.bases,
        grid.attacks or recipe.attacks,
        grid.base_seeds,
        grid.seeds,
    ):
        spec = recipe.attacks.get(label, TextAttackSpec())
        for varied in _variants(spec.vary):
            parts = [data, base, f"b{base_seed}", label, *(f"{k}{v}" for k, v in varied.items())]
            kind = None if label == UNTOUCHED else spec.attack or label
            settings = {"seed": seed, **spec.settings, **varied}
            yield TextEntry(
                name="-".join([*parts, f"s{seed}"]),
                data=data,
                base=base,
                base_seed=base_seed,
                label=label,
                kind=kind,
                attack=None if kind is None else make_text_attack(kind, settings),
                seed=seed,
                texts=recipe.data[data],
                spec=recipe.bases[base],
                adapter=spec.adapter,
            )


def _variants(vary: Mapping[str, tuple[Json, ...]]) -> Iterator[dict[str, Json]]:
    for values in product(*vary.values()):
        yield dict(zip(vary, values, strict=True))


def _plain(settings: Mapping[str, object]) -> dict[str, Json]:
    """Through JSON, which turns tuples into lists, so that it equals what was once written."""
    kept: dict[str, Json] = json.loads(json.dumps(settings))
    return kept
