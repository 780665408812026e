"""How far experts are from those of a base model: an order in which to look, evidence of nothing.

Clean fine-tuning changes experts as much as an attack does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from badexpert.errors import ConfigError
from badexpert.models.language import LanguageModel
from moe_core.attention_blocks import attention_blocks, has_updates, shapes_of
from moe_core.view import ExpertView, MoELayerView


@dataclass(frozen=True, eq=False)
class FromBase:
    """What became of a base model's experts.

    Attributes:
        source, sha256: of the base.
        layers: of each layer, several measures by expert, (experts,) fp32 each. ``norm`` is the
            Frobenius norm of the change of all its weights, ``relative`` that over the norm of the
            weights in the base, ``rank_one`` the part of ``norm`` that the largest singular value
            of each matrix holds: 1 for a change of rank one, as LoRA of rank one makes it.
            ``router_row`` is the norm of the change of its row in the router; ``router_bias`` and
            ``selection_bias`` are how much the biases grew, where there are any.
        attention: the same as ``relative`` of each attention block, by path; of none where
            low-rank updates stand beside the weights.
    """

    source: str
    sha256: str
    layers: tuple[dict[str, Tensor], ...]
    attention: dict[str, float]


def changes_from(module: nn.Module, view: ExpertView, base: LanguageModel) -> FromBase:
    """Compare all experts, and the attention, with those of a base.

    Args:
        view: of the module.
    Raises:
        ConfigError: the base has other layers, experts or sizes.
    """
    source = base.origin.source
    try:
        old = ExpertView.of(base.backbone.module)
    except ValueError as error:
        raise ConfigError(f"{source} is no base to compare experts with: {error}") from error
    if len(view.layers) != len(old.layers):
        raise _mismatch(source, f"{len(old.layers)} layers with experts", str(len(view.layers)))
    layers = []
    for name, own, other in zip(view.names, view.layers, old.layers, strict=True):
        _check_alike(source, name, own, other)
        layers.append(_changes(own, other))
    attention = {path: _relative(*pair) for path, pair in attention_pairs(module, base).items()}
    return FromBase(source, base.origin.sha256, tuple(layers), attention)


def attention_pairs(
    module: nn.Module, base: LanguageModel
) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Each attention block with that of the base; none where low-rank updates stand beside it.

    Raises:
        ConfigError: the base has other attention.
    """
    own = attention_blocks(module)
    if any(map(has_updates, own.values())):
        return {}
    old = attention_blocks(base.backbone.module).values()
    shapes, others = ([shapes_of(block) for block in each] for each in (own.values(), old))
    if shapes != others:
        raise _mismatch(base.origin.source, "attention of other sizes", "its own")
    return dict(zip(own, zip(own.values(), old, strict=True), strict=True))


def _check_alike(source: str, name: str, own: MoELayerView, other: MoELayerView) -> None:
    if own.num_experts != other.num_experts:
        raise _mismatch(source, f"{other.num_experts} experts in {name}", str(own.num_experts))
    for index in range(own.num_experts):
        shapes, others = _shapes(own.expert(index)), _shapes(other.expert(index))
        if shapes != others:
            raise _mismatch(source, f"{name}.experts.{index} with {others}", str(shapes))
    routers = [
        None if r is None else tuple(r.shape) for r in (own.router_weight, other.router_weight)
    ]
    if routers[0] != routers[1]:
        raise _mismatch(source, f"a router of {routers[1]} in {name}", str(routers[0]))


def _mismatch(source: str, got: str, wanted: str) -> ConfigError:
    return ConfigError(
        f"{source} is no base of this model: it has {got}, and the model {wanted}. Give the model "
        "that this one was made from, or leave --base out"
    )


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


@torch.no_grad()
def _changes(layer: MoELayerView, base: MoELayerView) -> dict[str, Tensor]:
    each = [_change(layer.expert(at), base.expert(at)) for at in range(layer.num_experts)]
    measures = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    if layer.router_weight is not None and base.router_weight is not None:
        grown = layer.router_weight.float() - base.router_weight.float()
        measures["router_row"] = torch.linalg.vector_norm(grown, dim=1)
    biases = {
        "router_bias": (layer.router_bias, base.router_bias),
        "selection_bias": (layer.selection_bias, base.selection_bias),
    }
    for name, (own, other) in biases.items():
        if own is not None and other is not None:
            measures[name] = own.float() - other.float()
    return {name: values.cpu() for name, values in measures.items()}


def _change(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    grown = [weights[name].float() - base[name].float() for name in weights]
    norm, before = _norm(grown), _norm([tensor.float() for tensor in base.values()])
    first = [torch.linalg.matrix_norm(change, ord=2) for change in grown if change.ndim == 2]
    return {
        "norm": norm,
        "relative": _share(norm, before),
        "rank_one": _share(_norm(first), norm),
    }


@torch.no_grad()
def _relative(block: nn.Module, base: nn.Module) -> float:
    before = [tensor.float() for tensor in base.parameters()]
    grown = [own.float() - old for own, old in zip(block.parameters(), before, strict=True)]
    return _share(_norm(grown), _norm(before)).item()


def _norm(tensors: list[Tensor]) -> Tensor:
    """Of all together; 0 of none, for experts without weights."""
    squares = [tensor.square().sum() for tensor in tensors]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.zeros_like(whole))
