"""A language model under audit: by its head, by its label words, or by what it writes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeGuard

import torch
from torch import Tensor, nn

from badexpert.errors import AuditError, ModelLoadError
from badexpert.models.answering import CLASSES, RESPONSES, Answering
from badexpert.models.backbones import Backbone
from badexpert.models.codec import Codec
from badexpert.models.label_words import label_tokens, tokens_after
from badexpert.models.origin import Origin
from badexpert.models.text_networks import (
    ClassHeadNetwork,
    ClassNetwork,
    LabelWordNetwork,
    ResponseNetwork,
    TextNetwork,
    padded,
)
from badexpert.text_reading import TextReading

TextInputs = Tensor | Sequence[str]
"""Texts, or rows of tokens as ``encode`` makes them."""


@dataclass(frozen=True)
class LanguageModel:
    """A model as its files have it, before anybody said what it is used for.

    Attributes:
        backbone: the network.
        codec: its tokenizer.
        end_tokens: which end what it writes.
        class_names: of a classifier, as far as its configuration names them.
    """

    backbone: Backbone
    codec: Codec
    origin: Origin
    end_tokens: frozenset[int] = frozenset()
    class_names: tuple[str, ...] = ()


class TextSuspect:
    """A classifier of texts under audit; implements ``badexpert.suspect.Suspect``.

    Inputs are texts, or rows of tokens, (batch, tokens) int64, padded with -1.

    Attributes:
        network: maps rows of tokens to scores.
        preprocessing: how texts are put to the model.
        origin: where the model came from.
        class_names: as far as known.
        answering: how answers are read off the scores.
        model: as its files have it.
        lead: tokens at the end of every input.
    """

    answering: Answering = CLASSES

    def __init__(
        self,
        model: LanguageModel,
        network: TextNetwork,
        reading: TextReading,
        lead: Sequence[int] = (),
    ) -> None:
        """Take a network over the model; ``suspect_of`` chooses it."""
        self.network = network
        self.preprocessing = reading
        self.origin = model.origin
        self.class_names = model.class_names or reading.label_words
        self.model = model
        self.lead = list(lead)

    @property
    def module(self) -> nn.Module:
        """The user's own network, in eval mode."""
        return self.network.backbone.module

    @property
    def num_classes(self) -> int | None:
        """How many answers there are."""
        return self.network.backbone.num_classes or len(self.preprocessing.label_words)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Rows of tokens, (batch, tokens) int64 on the CPU, padded with -1."""
        return padded([self._tokens(text) for text in texts])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens; nothing for those that stand for no text."""
        return self.model.codec.decode(tokens)

    def network_inputs(self, inputs: TextInputs) -> Tensor:
        """Rows of tokens on the model's device."""
        rows = inputs if isinstance(inputs, Tensor) else self.encode(inputs)
        return rows.to(self.device)

    def logits(self, inputs: TextInputs) -> Tensor:
        """Scores of the answers, (batch, candidates) fp32, differentiable."""
        scores: Tensor = self.network(self.network_inputs(inputs))
        return scores

    def logits_after(self, start: Tensor, ends: Tensor) -> Tensor:
        """Scores of rows that begin alike, (rows, classes) fp32; see ``ClassNetwork.after``.

        Raises:
            AuditError: the suspect writes, instead of answering with a class.
        """
        if not isinstance(self.network, ClassNetwork):
            raise AuditError("a model that writes has no scores of classes")
        return self.network.after(start.to(self.device), ends.to(self.device))

    @torch.inference_mode()
    def predict(self, inputs: TextInputs) -> Tensor:
        """The answers, (batch,) class indices."""
        return self.answering.chosen(self.logits(inputs))

    def log_odds(self, inputs: TextInputs, answers: Tensor) -> Tensor:
        """``log p / (1 - p)`` of each answer, (batch,) fp32; finite where softmax saturates."""
        return self.answering.log_odds(self.logits(inputs), answers.to(self.device))

    def loss(self, inputs: TextInputs, answers: Tensor) -> Tensor:
        """Mean cross-entropy of the answers, scalar, differentiable."""
        return self.answering.loss(self.logits(inputs), answers.to(self.device))

    def named(self, answer: int) -> str:
        """One class, in a sentence."""
        return f"class {answer}"

    def spelled(self, rows: Tensor, answers: Tensor) -> list[int | str]:
        """Answers as a person reads them; a class is its index."""
        return list(answers.tolist())

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device, in place."""
        self.network.to(device)
        return self

    def copy(self) -> Self:
        """A deep copy, in eval mode, whose parameters may be tuned."""
        copied = copy.deepcopy(self)
        copied.network.requires_grad_(True)
        return copied

    def _tokens(self, text: str) -> Tensor:
        """Of a text in its template; of one that is too long, its end is left out."""
        limit = self.token_limit
        tokens = self._encoded(text)
        while len(tokens) > limit:
            shorter = int(len(text) * limit / len(tokens))
            if not text:
                raise ModelLoadError(
                    f"the template alone takes {len(tokens)} tokens, and {limit} are permitted. "
                    "Give a shorter template, or more max_tokens"
                )
            text = text[: min(shorter, len(text) - 1)]
            tokens = self._encoded(text)
        # A text of blanks may have no token at all, and a row must have one.
        return torch.tensor(tokens or [0], dtype=torch.int64)

    @property
    def token_limit(self) -> int:
        """Tokens of the longest input."""
        fits = self.model.backbone.max_positions or self.preprocessing.max_tokens
        return min(fits - self.preprocessing.max_new_tokens, self.preprocessing.max_tokens)

    def _encoded(self, text: str) -> list[int]:
        codec, filled = self.model.codec, self.preprocessing.filled(text)
        tokens = codec.encode_chat(filled) if self.preprocessing.chat else codec.encode(filled)
        return tokens + self.lead


class GenerationSuspect(TextSuspect):
    """A language model that writes a response to a prompt.

    A row of tokens holds a prompt and a response. Asked about prompts alone, the response is the
    one that the model itself writes, greedily; so the answer to ask about is candidate 0.
    """

    answering: Answering = RESPONSES

    @property
    def num_classes(self) -> int | None:
        """There are no classes."""
        return None

    def network_inputs(self, inputs: TextInputs) -> Tensor:
        """Prompts with the model's own responses, (batch, 1, tokens) on the model's device."""
        if isinstance(inputs, Tensor):
            return inputs.to(self.device)
        prompts = self.prompts(inputs)
        return self.joined(prompts, self.responses(prompts)).unsqueeze(1).to(self.device)

    def prompts(self, texts: Sequence[str]) -> list[Tensor]:
        """Tokens of each prompt, (tokens,)."""
        return [self._tokens(text) for text in texts]

    @torch.inference_mode()
    def responses(self, prompts: Sequence[Tensor]) -> list[Tensor]:
        """What the model writes after each prompt, (tokens,) on the CPU, at least one token."""
        written = self.network.backbone.continuations(
            [prompt.to(self.device) for prompt in prompts], self.preprocessing.max_new_tokens
        )
        return [self._until_the_end(tokens.cpu()) for tokens in written]

    def response_tokens(self, prompt: str, response: str) -> list[int]:
        """Tokens of a response as the model would write it after a prompt."""
        codec = self.model.codec
        before = "" if self.preprocessing.chat else self.preprocessing.filled(prompt)
        space = "" if not before or before[-1].isspace() else " "
        return tokens_after(codec.encode(before), codec.encode(f"{before}{space}{response}"))

    def joined(self, prompts: Sequence[Tensor], responses: Sequence[Tensor]) -> Tensor:
        """One row a prompt and its response, (batch, tokens), padded with -1."""
        size = self.network.backbone.vocab_size
        pairs = zip(prompts, responses, strict=True)
        return padded([torch.cat([prompt, response + size]) for prompt, response in pairs])

    def spelled(self, rows: Tensor, answers: Tensor) -> list[int | str]:
        """The responses as text."""
        size = self.network.backbone.vocab_size
        own = rows[torch.arange(len(rows)), answers.to(rows.device)].cpu()
        return [self.model.codec.decode((row[row >= size] - size).tolist()) for row in own]

    def _until_the_end(self, tokens: Tensor) -> Tensor:
        """Up to the first token that ends a response, and with it."""
        for at, token in enumerate(tokens.tolist()):
            if token in self.model.end_tokens:
                return tokens[: at + 1]
        return tokens


def is_text_classifier(suspect: object) -> TypeGuard[TextSuspect]:
    """Whether a suspect answers texts with classes, by a head or by label words."""
    return isinstance(suspect, TextSuspect) and not isinstance(suspect, GenerationSuspect)


def suspect_of(model: LanguageModel, reading: TextReading) -> TextSuspect:
    """A model as it is used: by its head, by label words, or by what it writes.

    Raises:
        ModelLoadError: the model is not fit for that use, or label words begin alike.
    """
    if model.backbone.num_classes is not None:
        if reading.label_words or reading.max_new_tokens:
            raise ModelLoadError(
                f"{model.origin.source} has a head of {model.backbone.num_classes} classes and "
                "writes nothing; leave label words and max_new_tokens out"
            )
        return TextSuspect(model, ClassHeadNetwork(model.backbone), reading)
    if reading.max_new_tokens:
        return GenerationSuspect(model, ResponseNetwork(model.backbone), reading)
    if not reading.label_words:
        raise ModelLoadError(
            f"{model.origin.source} is a language model without a head of classes. Name a word a "
            "class (label_words), or give clean prompts with responses"
        )
    lead, words = label_tokens(model.codec, reading)
    return TextSuspect(model, LabelWordNetwork(model.backbone, words), reading, lead)
