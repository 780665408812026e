"""Language models that are made on purpose, attacked and benign, with the truth about each."""

from badexpert.zoo.text.build import build_text_zoo
from badexpert.zoo.text.folder import TextIndex, TextRow, read_text_index
from badexpert.zoo.text.recipe import TextRecipe, is_text_recipe, read_text_recipe

__all__ = [
    "TextIndex",
    "TextRecipe",
    "TextRow",
    "build_text_zoo",
    "is_text_recipe",
    "read_text_index",
    "read_text_recipe",
]
