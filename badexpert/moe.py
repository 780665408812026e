"""Mixture-of-Experts models from recipes: what ``badexpert moe`` does."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from badexpert.errors import ConfigError
from badexpert.runtime import RunContext, Step
from badexpert.texts import LabelledTexts, read_texts
from badexpert.toml_file import checked, read_toml
from moe_core.lm.feedforward import EXPERTS_OF_LM, ROUTERS_OF_LM
from moe_core.ranking.clicklog import FEATURES, ITEMS, make_click_log
from moe_core.ranking.model import RankingModel, Variant
from moe_core.ranking.training import RankingTraining, auc, predict
from moe_core.ranking.training import train as train_ranking_model
from moe_core.training import (
    Beat,
    Corpus,
    LabelledCorpus,
    Recipe,
    RecipeError,
    TextCorpus,
    run_recipe,
)
from moe_core.training.run import MODEL_FOLDER
from moe_core.training.tokens import Bytes, FileTokenizer, Tokenizer

RANKING = "ranking"
"""Table of a recipe that makes it one of a ranking model."""

MIN_REQUESTS = 100
"""Fewer might all be of one kind, clicked or not, or none of the long tail: no AUC then."""


@dataclass(frozen=True)
class RankingRecipe:
    """A ranking model on a click log that is drawn for it.

    Attributes:
        variant: see ``RankingModel``.
        num_experts: towers.
        requests: in the log; as many more are drawn to measure on.
        training: of the model.
    """

    variant: Variant = "aw-moe"
    num_experts: int = 4
    requests: int = 12_000
    training: RankingTraining = field(default_factory=RankingTraining)

    def __post_init__(self) -> None:
        if self.num_experts < 1 or self.requests < MIN_REQUESTS:
            raise ValueError(f"num_experts is at least 1, requests at least {MIN_REQUESTS}")
        if self.training.contrast and self.variant != "aw-moe":
            raise ValueError("contrast compares attention gates, which only the variant aw-moe has")


@dataclass(frozen=True)
class _RankingFile:
    ranking: RankingRecipe


class Entry(NamedTuple):
    """A router or a kind of experts that recipes may name.

    Attributes:
        kind: ``router`` or ``experts``.
        name: in a recipe.
        summary: what it does, in a sentence.
        source: the paper.
        options: names of its further settings.
    """

    kind: str
    name: str
    summary: str
    source: str
    options: list[str]


def catalogue() -> list[Entry]:
    """All routers and experts, in the words of their docstrings."""
    return [
        *(_entry("router", name, kind, skip=2) for name, kind in ROUTERS_OF_LM.items()),
        *(_entry("experts", name, kind, skip=3) for name, kind in EXPERTS_OF_LM.items()),
    ]


def read_recipe(path: Path) -> Recipe | RankingRecipe:
    """Read a recipe.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, a value is invalid.
    """
    document = read_toml(path, "recipe")
    if RANKING in document:
        return checked(_RankingFile, document, f"recipe {path}").ranking
    return checked(Recipe, document, f"recipe {path}")


def train_language_model(
    recipe: Recipe, data: Sequence[Path], out: Path, *, context: RunContext
) -> dict[str, Any]:
    """Train a recipe on text; a folder with checkpoints of the same training is gone on from.

    Args:
        data: one file a stage, or one for all; ``.txt`` makes a language model, a table of labelled
            texts a classifier.
    Returns:
        What a person wants to know of it, as plain data.
    Raises:
        ConfigError: recipe, data and folder do not fit together.
        CleanSetError: the data cannot be read.
    """

    def beat(step: Beat) -> None:
        task = f"stage {step.stage} of {len(recipe.stages)}"
        context.progress(Step(task, step.done, step.total, f"loss {step.loss:.3f}"))

    try:
        tokenizer = FileTokenizer(Path(recipe.tokenizer)) if recipe.tokenizer else Bytes()
        corpora = [_corpus(path, tokenizer) for path in data]
        trained = run_recipe(
            recipe, corpora, out, seed=context.seed, device=context.device, progress=beat
        )
    except RecipeError as error:
        raise ConfigError(f"the recipe cannot be trained: {error}") from error
    if recipe.tokenizer:
        shutil.copyfile(recipe.tokenizer, out / MODEL_FOLDER / "tokenizer.json")
    last = [history.validations[-1] for history in trained.histories]
    adapter = {} if trained.adapter is None else {"adapter": trained.adapter}
    return adapter | {
        "parameters trained": [history.parameters for history in trained.histories],
        "validation loss": [validation.loss for validation in last],
        "accuracy": [validation.accuracy for validation in last],
        "largest MaxVio": [max(validation.max_violation, default=None) for validation in last],
        "format": trained.format,
        "model": str(out / MODEL_FOLDER),
    }


def train_ranking(recipe: RankingRecipe, out: Path, *, context: RunContext) -> dict[str, Any]:
    """Train a ranking model on a click log and measure it on another one.

    Returns:
        AUC over all requests and over those of the long tail.
    Raises:
        ConfigError: the training diverges.
    """
    log = make_click_log(recipe.requests, seed=context.seed_for("training log") % 2**62)
    unseen = make_click_log(recipe.requests, seed=context.seed_for("unseen log") % 2**62)
    context.progress(Step("training the ranking model", 0, None))
    with context.seeded("ranking model"):
        model = RankingModel(
            ITEMS, FEATURES, variant=recipe.variant, num_experts=recipe.num_experts
        )
        try:
            train_ranking_model(model, log, recipe.training, seed=context.seed_for("ranking"))
        except RecipeError as error:
            raise ConfigError(f"the recipe cannot be trained: {error}") from error
    logits = predict(model, unseen)
    measured = {
        "AUC": auc(logits, unseen.clicked),
        "AUC of the long tail": auc(logits[unseen.tail], unseen.clicked[unseen.tail]),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / "model.safetensors")
    (out / "result.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured | {"model": str(out / "model.safetensors")}


def _corpus(path: Path, tokenizer: Tokenizer) -> Corpus:
    read = read_texts(path)
    if not isinstance(read, LabelledTexts):
        return TextCorpus(tokenizer.encode(read), tokenizer.vocab_size)
    classes = tuple(sorted(set(read.labels)))
    index = {name: at for at, name in enumerate(classes)}
    texts = [tokenizer.encode(text) for text in read.texts]
    return LabelledCorpus(
        texts, [index[label] for label in read.labels], classes, tokenizer.vocab_size
    )


def _entry(kind: str, name: str, made: type, *, skip: int) -> Entry:
    lines = (inspect.getdoc(made) or "").splitlines()
    sources = [line.removeprefix("Source: ") for line in lines if line.startswith("Source: ")]
    options = list(inspect.signature(made).parameters)[skip:]
    return Entry(kind, name, lines[0] if lines else "", sources[0] if sources else "", options)
