"""Training of small Mixture-of-Experts language models and classifiers, stage by stage."""

from moe_core.training.config import Budget, Recipe, RecipeError, Stage, TrainingConfig
from moe_core.training.corpus import Corpus, LabelledCorpus, TextCorpus
from moe_core.training.run import run_recipe
from moe_core.training.trainer import Beat, train

__all__ = [
    "Beat",
    "Budget",
    "Corpus",
    "LabelledCorpus",
    "Recipe",
    "RecipeError",
    "Stage",
    "TextCorpus",
    "TrainingConfig",
    "run_recipe",
    "train",
]
