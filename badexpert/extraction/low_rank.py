"""Copies of a network that share its weights, and differ in low-rank updates of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from badexpert.extraction.routers import routers_of
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.updated_experts import UpdatedSwiGLU, is_fused, update_fused, weights_of
from moe_core.updates import RANK, Update

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_NAME = "low_rank"
"""Of the update, as a submodule of the linear map that it is added to."""


def with_updates(network: ModuleT, generator: torch.Generator) -> ModuleT:
    """A copy that shares every weight and answers the same until its updates are tuned.

    Linear maps and the experts of known kinds have updates, embeddings, norms and routers none.
    """
    copied = sharing_copy(network)
    for parent, name, part in _targets(copied):
        if isinstance(part, SwiGLUExperts):
            setattr(parent, name, UpdatedSwiGLU(part, generator))
        elif is_fused(part):
            update_fused(part, generator)
        else:
            [(_, out_dim, in_dim)] = _shapes(part)
            update = Update(in_dim, out_dim, generator)
            part.add_module(_NAME, update.to(part.get_parameter("weight").device))
            part.register_forward_hook(_add)
    return copied


def sharing_copy(network: ModuleT) -> ModuleT:
    """A copy on the same memory, in which nothing but its own updates, if any, can be tuned."""
    own = {id(values) for update in _updates(network) for values in update.parameters()}
    shared: dict[int, object] = {
        id(values): nn.Parameter(values.detach(), requires_grad=False)
        for values in network.parameters()
        if id(values) not in own
    }
    shared |= {id(values): values for values in network.buffers()}
    return copy.deepcopy(network, shared)


def has_updates(network: nn.Module) -> bool:
    """Whether a network was made by ``with_updates``."""
    return any(True for _ in _updates(network))


def tuned_state(network: nn.Module) -> dict[str, Tensor]:
    """What tuning changes, by name: the updates where there are any, else everything.

    The mean of several such states is the mean of the weights; of updates nearly so. A moves little
    while an expert is tuned, since at an expert's rates a step is small beside its entries.
    """
    updates = [name for name, part in network.named_modules() if isinstance(part, Update)]
    own = {f"{name}.{side}" for name in updates for side in "AB"}
    state = network.state_dict()
    return {name: values for name, values in state.items() if name in own} if own else state


def size_of_updates(network: nn.Module) -> int:
    """Numbers in the updates of a network that has none yet."""
    shapes = [shape for _, _, part in _targets(network) for shape in _shapes(part)]
    return sum(experts * RANK * (out_dim + in_dim) for experts, out_dim, in_dim in shapes)


def note_of_what_stays(network: nn.Module) -> tuple[str, ...]:
    """A note if weights of several maps in one take no update, since nobody knows their use."""
    reached = {id(part) for _, _, part in _targets(network)}
    kinds = {
        type(part).__name__
        for part in network.modules()
        if id(part) not in reached and any(p.ndim > 2 for p in part.parameters(recurse=False))
    }
    return (f"the weights of {', '.join(sorted(kinds))} take no updates",) if kinds else ()


def _targets(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every part that takes updates, once, with its parent and its name there."""
    passed = {part for _, router in routers_of(network) for part in router.modules()}
    for parent in list(network.modules()):
        for name, part in list(parent.named_children()):
            if part not in passed and _shapes(part):
                passed.add(part)
                yield parent, name, part


def _shapes(part: nn.Module) -> list[torch.Size]:
    """(experts, out, in) of each weight that takes an update; none for other kinds of parts."""
    if isinstance(part, nn.Linear):
        return [torch.Size([1, part.out_features, part.in_features])]
    if type(part).__name__ == "Conv1D":  # transformers' name for the linear maps of GPT-2
        return [torch.Size([1, *part.get_parameter("weight").T.shape])]
    if type(part) is SwiGLUExperts or is_fused(part):
        return [weight.shape for weight in weights_of(part)]
    return []


def _updates(network: nn.Module) -> Iterator[Update]:
    return (part for part in network.modules() if isinstance(part, Update))


def _add(part: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    added: Tensor = part.get_submodule(_NAME)(inputs[0])
    return output + added.to(output.dtype)
