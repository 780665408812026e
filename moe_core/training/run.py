"""A recipe from its first stage to the finished model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch

from moe_core.lm.carry import carry_over
from moe_core.lm.config import DecoderConfig
from moe_core.lm.decoder import Decoder
from moe_core.lm.folder import save_decoder
from moe_core.lm.huggingface import NotExportableError
from moe_core.mixlora import ADAPTER_FOLDER, export_adapter
from moe_core.routers.mixlora import MixLoraRouter
from moe_core.training.config import Recipe, RecipeError, Stage
from moe_core.training.corpus import Corpus
from moe_core.training.history import History
from moe_core.training.plot import draw_history
from moe_core.training.trainer import Beat, train

MODEL_FOLDER = "model"


class Trained(NamedTuple):
    """What a recipe led to.

    Attributes:
        model: of the last stage, in evaluation mode.
        histories: one a stage.
        format: of the saved model, as ``save_decoder`` says it.
        adapter: folder of the MixLoRA adapter, or why there is none; None for models without one.
    """

    model: Decoder
    histories: list[History]
    format: str
    adapter: str | None


def run_recipe(
    recipe: Recipe,
    corpora: Sequence[Corpus],
    out: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Callable[[Beat], None] = lambda beat: None,
) -> Trained:
    """Train all stages; a folder with checkpoints of the same training is gone on from.

    The folder gets ``stage-1/`` and so on, each with a checkpoint, the history as JSON and as a
    picture, and ``model/``, which ``moe_core.lm.load_decoder`` reads. Where a MixLoRA adapter was
    trained, it also gets ``base/`` and ``adapter/``; see ``moe_core.mixlora.export_adapter``.

    Args:
        corpora: one a stage, or one for all.
    Raises:
        RecipeError: the recipe names what does not exist, or does not fit its data or the folder.
    """
    if len(corpora) not in (1, len(recipe.stages)):
        raise RecipeError(
            f"{len(corpora)} data sets for {len(recipe.stages)} stages; give 1 or all"
        )
    before: Decoder | None = None
    model: Decoder | None = None
    histories = []
    for at, stage in enumerate(recipe.stages):
        corpus = corpora[at if len(corpora) > 1 else 0]
        before, config = model, (recipe.model if model is None else model.config)
        model, history = start_stage(stage, config, corpus, before, seed=seed + at)
        folder = out / f"stage-{at + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        history = train(
            model.to(device),
            corpus,
            stage.training,
            seed=seed + at,
            folder=folder,
            origin=_origin(recipe, seed, corpora),
            history=history,
            progress=_of_stage(at + 1, stage, progress),
        )
        draw_history(history, folder / "history.png")
        histories.append(history)
    assert model is not None
    saved = save_decoder(model, out / MODEL_FOLDER)
    return Trained(model, histories, saved, _write_adapter(model, before, out))


def start_stage(
    stage: Stage, config: DecoderConfig, corpus: Corpus, before: Decoder | None, *, seed: int
) -> tuple[Decoder, History]:
    """The model of a stage before its first step, and a history that says what is fresh in it.

    Args:
        config: of the stage before, or of the recipe.
        before: the model that the stage before trained; None for the first.
    Raises:
        RecipeError: the recipe names what does not exist, or its stages do not fit together.
    """
    try:
        model = _fresh(stage, config, corpus, seed)
        carried = set() if before is None else carry_over(before.cpu(), model)
    except ValueError as error:  # all that these are given comes from the recipe
        raise RecipeError(str(error)) from error
    if stage.train == "new":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in carried)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fresh = sorted(model.state_dict().keys() - carried)
    return model, History(parameters=trained, fresh=fresh)


def _fresh(stage: Stage, config: DecoderConfig, corpus: Corpus, seed: int) -> Decoder:
    config = replace(stage.applied(config), vocab_size=corpus.vocab_size, classes=corpus.classes)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Decoder(config)


def _write_adapter(model: Decoder, base: Decoder | None, out: Path) -> str | None:
    if not any(isinstance(router, MixLoraRouter) for router in model.routers()):
        return None
    try:
        export_adapter(model, base, out)
    except NotExportableError as error:
        return f"not written: {error}"
    return str(out / ADAPTER_FOLDER)


def _of_stage(
    number: int, stage: Stage, progress: Callable[[Beat], None]
) -> Callable[[int, float], None]:
    total = stage.training.steps
    return lambda done, loss: progress(Beat(number, done, total, loss))


def _origin(recipe: Recipe, seed: int, corpora: Sequence[Corpus]) -> str:
    """A digest of all that decides how a training goes."""
    asked = json.dumps(asdict(recipe), sort_keys=True)
    data = "/".join(corpus.digest() for corpus in corpora)
    return hashlib.sha256(f"{asked}/{seed}/{data}".encode()).hexdigest()
