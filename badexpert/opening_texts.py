"""From a configuration to a language model as it is used, and the texts that it is audited with."""

from __future__ import annotations

from typing import NamedTuple

import torch

from badexpert.config import ScanConfig, TextConfig
from badexpert.errors import ConfigError
from badexpert.loading.language import load_language_model
from badexpert.models.codec import Codec
from badexpert.models.language import LanguageModel, TextSuspect, suspect_of
from badexpert.runtime import RunContext
from badexpert.sources.texts import TextSource, open_texts
from badexpert.text_reading import DEFAULT_TEMPLATE, SLOT, TextReading
from badexpert.textset import TextCleanSet

MOST_RESPONSES = 0.95
"""Share of the clean responses that generation is to have room for."""

MAX_NEW_TOKENS = 256


class OpenedTexts(NamedTuple):
    """A language model with its use, and the clean set, which also says what that use is."""

    suspect: TextSuspect
    clean: TextCleanSet | None


def open_language_suspect(config: ScanConfig, context: RunContext) -> OpenedTexts:
    """The language model and the clean texts that the configuration names.

    Raises:
        ModelLoadError: see ``load_language_model`` and ``suspect_of``.
        CleanSetError: see ``TextCleanSet.open``.
        ConfigError: nothing says what the model is used for.
    """
    source, chosen = str(config.model.source), config.clean
    model = load_language_model(source, adapter=config.model.adapter, device=context.device)
    texts = None if chosen.source is None else open_texts(chosen.source)
    suspect = suspect_of(model, reading_of(model, config.model.text, texts))
    if chosen.source is None or texts is None:
        return OpenedTexts(suspect, None)
    clean = TextCleanSet.open(
        chosen.source,
        num_classes=suspect.num_classes,
        limit=chosen.limit,
        seed=config.seed,
        class_index=chosen.class_index or _by_name(suspect, texts),
    )
    return OpenedTexts(suspect, clean)


def reading_of(model: LanguageModel, text: TextConfig, texts: TextSource | None) -> TextReading:
    """How texts are put to a model: as configured, else as model and data have it.

    Args:
        texts: clean ones, if there are any.
    Raises:
        ConfigError: a language model has neither label words nor responses.
    """
    if model.backbone.num_classes is not None:
        template = text.template or SLOT
        return TextReading(template, False, text.label_words, max_tokens=text.max_tokens)
    chat = text.template is None and model.codec.has_chat
    if texts is not None and texts.responses:
        new = text.max_new_tokens or _room_for(texts, model.codec)
        template = text.template or SLOT
        return TextReading(template, chat, max_tokens=text.max_tokens, max_new_tokens=new)
    words = text.label_words or (None if texts is None else texts.class_names)
    if not words:
        raise ConfigError(
            f"{model.origin.source} is a language model without a head of classes: name a word a "
            "class in model.text.label_words, give clean texts whose labels are words, or give "
            "clean prompts with responses"
        )
    asked = f"{SLOT}\n\nAnswer with one word: {', '.join(words)}." if chat else DEFAULT_TEMPLATE
    return TextReading(text.template or asked, chat, tuple(words), text.max_tokens)


def _room_for(texts: TextSource, codec: Codec) -> int:
    lengths = [len(codec.encode(text.response)) for _, text in texts.read(range(len(texts)))]
    longest = int(torch.tensor(lengths, dtype=torch.float32).quantile(MOST_RESPONSES).ceil())
    return min(max(longest, 1), MAX_NEW_TOKENS)


def _by_name(suspect: TextSuspect, texts: TextSource) -> dict[str, int] | None:
    """The model's index of each class, where model and data name all of them alike."""
    index = {name: number for number, name in enumerate(suspect.class_names)}
    return index if texts.class_names and set(texts.class_names) <= index.keys() else None
