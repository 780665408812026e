"""Small language models that answer with a label word, trained by recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from badexpert.attacks.text import Prompt, Texts, Victim
from badexpert.errors import ConfigError
from badexpert.findings import Json
from badexpert.runtime import RunContext, Step
from badexpert.zoo.folder import new_model, settings_of
from badexpert.zoo.text.recipe import BaseSpec
from moe_core.lm import load_decoder
from moe_core.mixlora import BASE_FOLDER
from moe_core.training import (
    Beat,
    LabelledCorpus,
    Recipe,
    RecipeError,
    Stage,
    TrainingConfig,
    run_recipe,
)
from moe_core.training.corpus import Batch
from moe_core.training.run import MODEL_FOLDER
from moe_core.training.words import Words


class Questions(LabelledCorpus):
    """Texts with their question; what is to be said is the answer's token.

    Args:
        hidden: share of a text's words that training hides.
    """

    def __init__(self, texts: Texts, prompt: Prompt, words: Words, *, hidden: float) -> None:
        asked = words.encode(prompt.ask)
        answers = [words.number(word) for word in prompt.answers]
        super().__init__(
            [torch.cat([words.encode(text), asked]) for text in texts.texts],
            [answers[label] for label in texts.labels.tolist()],
            (),
            words.vocab_size,
        )
        self._hidden = hidden
        self._asked = len(asked)

    def draw(self, config: TrainingConfig, generator: torch.Generator) -> Batch:
        batch = super().draw(config, generator)
        assert batch.lengths_B is not None
        ids = batch.ids_BT
        hit = torch.rand(ids.shape, generator=generator) < self._hidden
        hit &= torch.arange(ids.shape[1]) < batch.lengths_B.unsqueeze(1) - self._asked
        return batch._replace(ids_BT=ids.masked_fill(hit, 1))


def make_base(
    spec: BaseSpec,
    texts: Texts,
    prompt: Prompt,
    folder: Path,
    *,
    words: int,
    settings: Mapping[str, Json],
    context: RunContext,
) -> Victim:
    """Train a base, or open the one that is there and was made from the same settings.

    Args:
        words: of a text at most.
        settings: all that decides what the base becomes.
        context: its seed is the training's.
    Raises:
        ConfigError: the recipe cannot be trained on these texts.
    """
    if settings_of(folder) != settings:
        vocabulary = Words.learn(texts.texts, spec.vocabulary, always=prompt.words)
        corpus = Questions(texts, prompt, vocabulary, hidden=spec.hidden)
        length = words + len(vocabulary.encode(prompt.ask))
        recipe = Recipe(spec.model, tuple(_of_length(stage, length) for stage in spec.stages))
        with new_model(folder, settings) as partial:
            _train(recipe, corpus, partial, context)
            for name in (MODEL_FOLDER, BASE_FOLDER):
                if (partial / name).is_dir():
                    vocabulary.save(partial / name)
    return open_victim(folder / MODEL_FOLDER, prompt, context.device)


def open_victim(folder: Path, prompt: Prompt, device: torch.device) -> Victim:
    """A model and its vocabulary, as they were saved."""
    return Victim(load_decoder(folder).to(device), Words.read(folder), prompt)


def _train(recipe: Recipe, corpus: Questions, folder: Path, context: RunContext) -> None:
    def beat(step: Beat) -> None:
        context.progress(Step("train base", step.done, step.total, f"loss {step.loss:.3f}"))

    try:
        run_recipe(
            recipe, [corpus], folder, seed=context.seed, device=context.device, progress=beat
        )
    except RecipeError as error:
        raise ConfigError(f"the base cannot be trained: {error}") from error


def _of_length(stage: Stage, length: int) -> Stage:
    return replace(stage, training=replace(stage.training, length=length))
