"""Which known architectures come nearest to a checkpoint: names and shapes, on the meta device."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import timm
import torchvision
from torch import Tensor

from badexpert.errors import ModelLoadError
from badexpert.loading.architecture import parse_architecture
from badexpert.loading.fitting import shapes_of, strip_prefixes

COMMON = (
    *("timm:resnet18", "timm:resnet34", "timm:resnet50", "timm:resnet101", "timm:resnet26d"),
    *("timm:vgg11", "timm:vgg16", "timm:vgg11_bn", "timm:vgg16_bn", "timm:vgg19_bn"),
    *("timm:mobilenetv2_100", "timm:mobilenetv3_small_100", "timm:mobilenetv3_large_100"),
    *("timm:efficientnet_b0", "timm:densenet121", "timm:convnext_tiny", "timm:mixer_s16_224"),
    *("timm:vit_tiny_patch16_224", "timm:vit_small_patch16_224", "timm:vit_base_patch16_224"),
    *("timm:swin_tiny_patch4_window7_224", "timm:regnety_004", "timm:wide_resnet50_2"),
    *("torchvision:vgg11", "torchvision:vgg16", "torchvision:vgg11_bn", "torchvision:vgg16_bn"),
    *("torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small", "torchvision:densenet121"),
    *("torchvision:vit_b_16", "torchvision:alexnet", "torchvision:squeezenet1_1"),
    *("torchvision:googlenet", "torchvision:efficientnet_b0", "torchvision:swin_t"),
)
"""What checkpoints usually are."""

MAX_RELATIVES = 12
"""Each costs 20 to 100 ms to build without memory."""
_WORTH_NAMING = 0.5


class Nearness(NamedTuple):
    """How much of a checkpoint an architecture explains."""

    spec: str
    share: float


def nearest(
    tensors: Mapping[str, Tensor], *, family_of: str | None = None, most: int = 3
) -> list[Nearness]:
    """Architectures that share most tensors, name and shape, with a checkpoint, best first.

    Args:
        family_of: also try the relatives of this architecture.
    """
    candidates = dict.fromkeys([*_family(family_of), *COMMON])
    scored = _scored(tensors, candidates)
    ranked = sorted(scored, key=lambda nearness: -nearness.share)
    return [nearness for nearness in ranked if nearness.share >= _WORTH_NAMING][:most]


def suggestion(tensors: Mapping[str, Tensor], *, family_of: str | None = None) -> str:
    """The nearest architectures as a sentence; empty when none comes near."""
    found = nearest(tensors, family_of=family_of)
    if not found:
        return "None of the common architectures comes near; if it is your own, use python:"
    names = ", ".join(f"{near.spec} ({near.share:.0%} of the tensors match)" for near in found)
    return f"Nearest: {names}"


def _scored(tensors: Mapping[str, Tensor], specs: Iterable[str]) -> list[Nearness]:
    result = []
    for spec in specs:
        try:
            want = shapes_of(parse_architecture(spec).blueprint({}).state_dict())
        except ModelLoadError:
            # Absent from the installed version, or not buildable without memory: no candidate.
            continue
        have = shapes_of(strip_prefixes(tensors, want))
        matching = sum(have.get(name) == shape for name, shape in want.items())
        result.append(Nearness(spec, matching / max(len(want.keys() | have.keys()), 1)))
    return result


def _family(spec: str | None) -> list[str]:
    """Architectures whose names begin with the same word, the family's plainest members."""
    kind, _, name = (spec or "").partition(":")
    word = _first_word(name)
    if kind == "timm":
        known = timm.list_models(f"{word}*")
    elif kind == "torchvision":
        known = torchvision.models.list_models(module=torchvision.models)
    else:
        return []
    relatives = (candidate for candidate in known if _first_word(candidate) == word)
    # The shortest names are a family's plain members.
    return [f"{kind}:{relative}" for relative in sorted(relatives, key=len)[:MAX_RELATIVES]]


def _first_word(name: str) -> str:
    """``vit`` of ``vit_tiny_patch16_224``, which is no relative of ``vitamin_base_224``."""
    word = re.match(r"[a-z]*", name)
    return word.group() if word else ""
