"""Mixture-of-Experts blocks of transformers, one line a family.

Families differ in few facts (``family``): where the router is, how it tells the experts
(``wires``), how weights lie in memory (``layouts``). The mechanism is written once (``layer``).
Blocks are known by the name of their class; transformers itself is not imported.

Run with transformers 5.17.0 and 5.23.0, with the experts backends ``eager`` and ``grouped_mm``.
transformers 4 has other modules under the same names, and is refused.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from torch import nn

from moe_core.families.family import Family
from moe_core.families.layer import FamilyLayer
from moe_core.families.layouts import interleaved, transposed, two_maps, ungated
from moe_core.families.wires import OneHot, Scores

__all__ = ["FAMILIES", "Family", "FamilyLayer", "known_layers", "unknown_blocks"]

FAMILIES: Mapping[str, Family] = {
    "MixtralSparseMoeBlock": Family("gate"),
    "OlmoeSparseMoeBlock": Family("gate"),
    "Qwen2MoeSparseMoeBlock": Family(
        "gate", shared="shared_expert", shared_gate="shared_expert_gate"
    ),
    "Qwen3MoeSparseMoeBlock": Family("gate"),
    "DeepseekV2Moe": Family("gate", shared="shared_experts"),
    "DeepseekV3MoE": Family("gate", sigmoid=True, shared="shared_experts"),
    "Glm4MoeMoE": Family("gate", sigmoid=True, shared="shared_experts"),
    "GptOssMLP": Family("router", layout=interleaved),
    "PhimoeSparseMoeBlock": Family("router"),
    "GraniteMoeMoE": Family("router"),
    "GraniteMoeSharedMoE": Family(
        "router", shared="shared_mlp", beside=True, shared_layout=two_maps
    ),
    "GraniteMoeHybridMoE": Family(
        "router", shared="shared_mlp", beside=True, shared_layout=two_maps
    ),
    "Llama4TextMoe": Family(
        "router", sigmoid=True, wire=Scores(), layout=transposed, shared="shared_expert"
    ),
    "SwitchTransformersSparseMLP": Family(
        "router", linear="classifier", wire=OneHot(), layout=ungated
    ),
}


def known_layers(model: nn.Module) -> Iterator[tuple[str, FamilyLayer]]:
    """Every block of a known family with its path, in the order in which the model holds them.

    Raises:
        ValueError: a block has a known name and other contents, or the model is compiled.
    """
    for path, block in model.named_modules():
        if (family := FAMILIES.get(type(block).__name__)) is not None:
            _check_not_compiled(model)
            owner = model.get_submodule(path.rpartition(".")[0]) if family.beside else block
            yield path, _layer(path, block, family, owner)


def unknown_blocks(model: nn.Module, known: Container[str]) -> list[str]:
    """Modules that hold ``experts`` too, at other than the known paths, as ``class at path``."""
    return [
        f"{type(block).__name__} at {path or 'the top'}"
        for path, block in model.named_modules()
        if path not in known and "experts" in dict(block.named_children())
    ]


def _check_not_compiled(model: nn.Module) -> None:
    # Compiled code never looks whether hooks came later: every change would silently do nothing.
    if any(
        type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None
        for part in model.modules()
    ):
        raise ValueError(
            f"{type(model).__name__} is compiled, and compiled code ignores hooks; give the model "
            "as it was before torch.compile"
        )


def _layer(path: str, block: nn.Module, family: Family, owner: nn.Module) -> FamilyLayer:
    shared = dict(owner.named_children()).get(family.shared) if family.shared else None
    try:
        layer = FamilyLayer(family, block, shared)
        weights = [layer.router_weight, *layer.expert(0).values()]
    except (AttributeError, IndexError) as error:
        raise ValueError(
            f"{type(block).__name__} at {path} is not built as in transformers 5.17 to "
            f"5.23: {error}"
        ) from error
    if narrow := {str(weight.dtype) for weight in weights if weight.dtype.itemsize < 2}:
        raise ValueError(
            f"{type(block).__name__} at {path} is quantised ({', '.join(narrow)}); "
            "load the model dequantised, in bf16 or wider"
        )
    return layer
