"""Language models of both libraries behind the few calls that networks make of them.

Tokens come as (rows, tokens) int64, padded at their end; what is written after a token changes
nothing before it, so no answer depends on the padding.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from threading import get_ident
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from moe_core.lm.attention import Memory
from moe_core.lm.decoder import Decoder
from moe_core.lm.generate import generate


class Last(NamedTuple):
    """What a model says at each row's last token.

    Attributes:
        logits: (rows, vocabulary or classes).
        states: that its head made them from, (rows, width).
    """

    logits: Tensor
    states: Tensor


class Backbone(nn.Module):
    """A language model, or a classifier of texts.

    Attributes:
        module: the network itself.
        vocab_size: tokens that it knows.
        num_classes: of its head; None of a language model.
        max_positions: tokens that it can take; None where nothing limits them.
    """

    module: nn.Module
    vocab_size: int
    num_classes: int | None
    max_positions: int | None

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """From tokens, (...), to what the first layer takes, (..., width)."""

    @abstractmethod
    def last(self, ids: Tensor, lengths: Tensor) -> Last:
        """What follows each row's last token, or a classifier's answer.

        Args:
            ids: (rows, tokens); padding may be any token.
            lengths: of the rows without padding, (rows,).
        """

    @abstractmethod
    def remembered(self, ids: Tensor) -> object | None:
        """What the model keeps of tokens that it has read, (tokens,); None if it keeps nothing."""

    @abstractmethod
    def logits_after(self, memory: Any, ids: Tensor, first: int) -> Tensor:
        """What follows the tokens from one on, of rows that go on after the same beginning,
        (rows, tokens - first, vocabulary).

        Args:
            memory: of the beginning, from ``remembered``; stays as it is.
            ids: (rows, tokens), none of them padding.
        """

    @abstractmethod
    def logits_at(self, ids: Tensor, lengths: Tensor, chosen: Tensor) -> Tensor:
        """What follows some of the tokens, row by row, (chosen tokens, vocabulary).

        Args:
            chosen: which, (rows, tokens) bool.
        """

    @abstractmethod
    def continuations(self, prompts: Sequence[Tensor], new_tokens: int) -> list[Tensor]:
        """What the model writes after each prompt, greedily, (up to new_tokens,) each."""


class DecoderBackbone(Backbone):
    """A decoder of ``moe_core``."""

    module: Decoder

    def __init__(self, module: Decoder) -> None:
        super().__init__()
        self.module = module
        self.vocab_size = module.config.vocab_size
        self.num_classes = len(module.config.classes) or None
        self.max_positions = None

    @property
    def embedding(self) -> nn.Module:
        return self.module.embed_tokens

    def last(self, ids: Tensor, lengths: Tensor) -> Last:
        output = self.module(ids, lengths)
        return Last(output.logits, output.states)

    def remembered(self, ids: Tensor) -> list[Memory] | None:
        if self.num_classes is not None:
            return None
        memory = self.module.new_memory()
        self.module(ids[None], memory=memory)
        return memory

    def logits_after(self, memory: list[Memory], ids: Tensor, first: int) -> Tensor:
        begun = [layer.repeated(len(ids)) for layer in memory]
        with _given_only(self.module.head, lambda states: states[:, first:].flatten(0, 1)):
            logits: Tensor = self.module(ids, memory=begun).logits
        return logits[0].view(len(ids), ids.shape[1] - first, -1)

    def logits_at(self, ids: Tensor, lengths: Tensor, chosen: Tensor) -> Tensor:
        with _given_only(self.module.head, lambda states: states[chosen]):
            return self.module(ids).logits[0]

    def continuations(self, prompts: Sequence[Tensor], new_tokens: int) -> list[Tensor]:
        """Prompts of one length at a time: the decoder knows no padding before a prompt."""
        written: dict[int, Tensor] = {}
        for rows in _by_length(prompts):
            ids = torch.stack([prompts[row] for row in rows])
            written |= zip(rows, generate(self.module, ids, new_tokens), strict=True)
        return [written[row] for row in range(len(prompts))]


class TransformersBackbone(Backbone):
    """A model of the package ``transformers``."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self._config = module.config.get_text_config()
        self.vocab_size = self._config.vocab_size
        head = type(module).__name__.endswith("ForSequenceClassification")
        self.num_classes = module.config.num_labels if head else None
        self.max_positions = getattr(self._config, "max_position_embeddings", None)
        # Until transformers 5.23 a cache had the longer name.
        taken = inspect.signature(module.forward).parameters
        self._cache = "cache" if "cache" in taken else "past_key_values"

    @property
    def embedding(self) -> nn.Module:
        found: nn.Module = cast(Any, self.module).get_input_embeddings()
        return found

    def last(self, ids: Tensor, lengths: Tensor) -> Last:
        if self.num_classes is not None:
            return self._classified(ids, lengths)
        with _given_only(self._head, partial(_at_last, lengths=lengths)) as given:
            logits: Tensor = self._run(ids, lengths).logits
        return Last(logits[0], given[0])

    def remembered(self, ids: Tensor) -> Any | None:
        if self.num_classes is not None:
            return None
        output = self._run(ids[None], torch.tensor([len(ids)], device=ids.device), use_cache=True)
        memory = output.get(self._cache)
        return memory if hasattr(memory, "batch_repeat_interleave") else None

    def logits_after(self, memory: Any, ids: Tensor, first: int) -> Tensor:
        begun, module = deepcopy(memory), cast(Any, self.module)
        begun.batch_repeat_interleave(len(ids))
        with _given_only(self._head, lambda states: states[:, first:].flatten(0, 1)):
            logits: Tensor = module(input_ids=ids, use_cache=True, **{self._cache: begun}).logits
        return logits[0].view(len(ids), ids.shape[1] - first, -1)

    def logits_at(self, ids: Tensor, lengths: Tensor, chosen: Tensor) -> Tensor:
        with _given_only(self._head, lambda states: states[chosen]):
            logits: Tensor = self._run(ids, lengths).logits
        return logits[0]

    def continuations(self, prompts: Sequence[Tensor], new_tokens: int) -> list[Tensor]:
        """Prompts are padded at their beginning, which the mask and the positions pass over."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64, device=prompts[0].device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        module: Any = self.module
        written = module.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False
        )
        return list(written[:, longest:])

    def _classified(self, ids: Tensor, lengths: Tensor) -> Last:
        """Rows must be padded with the model's own padding token: its head looks for it."""
        body = cast(Any, self.module).base_model
        with self._padding_token(ids, lengths) as token, _last_states(body, lengths) as states:
            padded = torch.where(_mask(ids, lengths), ids, token)
            logits: Tensor = self._run(padded, lengths).logits
        return Last(logits, states[0])

    @contextmanager
    def _padding_token(self, ids: Tensor, lengths: Tensor) -> Iterator[int]:
        """The model's own; where it has none, one that no row of the batch ends with."""
        if self._config.pad_token_id is not None:
            yield self._config.pad_token_id
            return
        last = set(ids[torch.arange(len(ids), device=ids.device), lengths - 1].tolist())
        self._config.pad_token_id = next(t for t in range(self.vocab_size) if t not in last)
        try:
            yield self._config.pad_token_id
        finally:
            self._config.pad_token_id = None

    @property
    def _head(self) -> Any:
        return cast(Any, self.module).get_output_embeddings()

    def _run(self, ids: Tensor, lengths: Tensor, **options: Any) -> Any:
        mask = _mask(ids, lengths).long()
        return self.module(input_ids=ids, attention_mask=mask, **options)


@contextmanager
def _given_only(head: Any, chosen: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Inside, a head gets some states alone, as those of one row: a vocabulary is large.

    What the model makes of its logits then (scales, caps) is its own code. The states are in the
    list afterwards.

    Args:
        chosen: from all states, (rows, tokens, width), to those, (chosen, width).
    """
    thread, given = get_ident(), list[Tensor]()

    def narrowed(_head: nn.Module, states: tuple[Tensor]) -> tuple[Tensor] | None:
        if get_ident() != thread:  # the texts of another request to the same model
            return None
        given.append(chosen(states[0]))
        return (given[-1][None],)

    hook = head.register_forward_pre_hook(narrowed)
    try:
        yield given
    finally:
        hook.remove()
    assert given, "the model does not call its head"


@contextmanager
def _last_states(body: nn.Module, lengths: Tensor) -> Iterator[list[Tensor]]:
    """Inside, the state of each row's last token that the layers below a head made is kept."""
    thread, kept = get_ident(), list[Tensor]()

    def seen(_body: nn.Module, _inputs: object, output: Sequence[Tensor]) -> None:
        if get_ident() == thread:
            kept.append(_at_last(output[0], lengths))

    hook = body.register_forward_hook(seen)
    try:
        yield kept
    finally:
        hook.remove()


def _at_last(states: Tensor, lengths: Tensor) -> Tensor:
    """(rows, tokens, width) at each row's last token, (rows, width)."""
    return states[torch.arange(len(lengths), device=lengths.device), lengths - 1]


def _mask(ids: Tensor, lengths: Tensor) -> Tensor:
    """Which tokens are no padding, (rows, tokens) bool."""
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]


def _by_length(prompts: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the prompts of each length."""
    lengths = sorted({len(prompt) for prompt in prompts})
    return [[i for i, prompt in enumerate(prompts) if len(prompt) == length] for length in lengths]
