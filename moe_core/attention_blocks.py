"""The attention of a decoder, block by block: what it answers on average, with and without updates.

Blocks are known by the name that moe_core and transformers both give them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moe_core.lora import LoraLinear

_NAME = "self_attn"


def attention_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Every attention block by its path, in the order in which the model holds them."""
    return {path: part for path, part in model.named_modules() if path.rpartition(".")[2] == _NAME}


class MeanAnswer:
    """What one block adds to a token, on average over all tokens that it was given."""

    def __init__(self) -> None:
        self._sum_D: Tensor | None = None
        self._tokens = 0

    def see(self, answer_BTD: Tensor) -> None:
        """Take note of an answer."""
        sum_D = answer_BTD.detach().flatten(0, -2).float().sum(0)
        self._sum_D = sum_D if self._sum_D is None else self._sum_D + sum_D
        self._tokens += answer_BTD.shape[:-1].numel()

    @property
    def mean_D(self) -> Tensor:
        """(width,) fp32.

        Raises:
            ValueError: nothing was seen.
        """
        if self._sum_D is None:
            raise ValueError("nothing ran while the block was observed")
        return self._sum_D / self._tokens


@contextmanager
def averaging(blocks: Iterable[nn.Module]) -> Iterator[list[MeanAnswer]]:
    """Take the mean answer of each block."""
    chosen = list(blocks)
    means = [MeanAnswer() for _ in chosen]
    with ExitStack() as stack:
        for block, mean in zip(chosen, means, strict=True):
            hook = block.register_forward_hook(
                lambda _block, _inputs, output, mean=mean: mean.see(_hidden(output))
            )
            stack.callback(hook.remove)
        yield means


@contextmanager
def answering(block: nn.Module, answer_D: Tensor) -> Iterator[None]:
    """Let a block answer every token alike."""

    def instead(_block: nn.Module, _inputs: object, output: Any) -> Any:
        hidden = answer_D.to(_hidden(output)).expand_as(_hidden(output))
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    hook = block.register_forward_hook(instead)
    try:
        yield
    finally:
        hook.remove()


def has_updates(block: nn.Module) -> bool:
    """Whether low-rank updates stand beside a block's weights."""
    return any(isinstance(part, LoraLinear) for part in block.modules())


@contextmanager
def without_updates(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Leave the low-rank updates of some blocks out."""
    with ExitStack() as stack:
        for block in blocks:
            for part in block.modules():
                if isinstance(part, LoraLinear):
                    hook = part.register_forward_hook(
                        lambda lora, inputs, _output: lora.base(*inputs)
                    )
                    stack.callback(hook.remove)
        yield


@contextmanager
def reverted(pairs: Mapping[nn.Module, nn.Module]) -> Iterator[None]:
    """Give blocks the weights of others of the same build, by block."""
    tensors = [
        (own, theirs)
        for block, other in pairs.items()
        for own, theirs in zip(block.parameters(), other.parameters(), strict=True)
    ]
    before = [own.data for own, _ in tensors]
    for own, theirs in tensors:
        own.data = theirs.data.to(own)
    try:
        yield
    finally:
        for (own, _), data in zip(tensors, before, strict=True):
            own.data = data


def shapes_of(block: nn.Module) -> dict[str, torch.Size]:
    """Of all parameters, by name."""
    return {name: parameter.shape for name, parameter in block.named_parameters()}


def _hidden(output: Any) -> Tensor:
    """The answer, which transformers returns with the attention weights behind it."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden
