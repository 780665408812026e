"""Reading an architecture's arguments off the tensors: classes, channels, a transformer's sizes.

Classes and channels are found by building the architecture twice with different values, on the
meta device, and looking which tensor changed its shape: no list of layer names is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from badexpert.errors import ModelLoadError
from badexpert.loading.architecture import Architecture, Arguments, TimmArchitecture
from badexpert.loading.fitting import Shapes, shapes_of, strip_prefixes

_CLASS_PROBES = (7, 11)
_CHANNEL_PROBES = (3, 1)
_READ_OFF = ("img_size", "patch_size", "embed_dim", "num_heads", "depth", "mlp_ratio")
"""Left at their defaults in the plan that a transformer's tensors are held against."""


def infer_arguments(
    architecture: Architecture, tensors: Mapping[str, Tensor], given: Arguments
) -> dict[str, Any]:
    """Complete the given arguments with what the tensors say.

    Raises:
        ModelLoadError: the architecture cannot be built with the given arguments, or the tensors
            contradict them.
    """
    arguments = dict(given)
    if isinstance(architecture, TimmArchitecture):
        arguments |= _transformer_arguments(architecture, tensors, arguments)
    channel_argument = architecture.channel_argument
    if channel_argument is not None and channel_argument not in arguments:
        channels = _varied(architecture, tensors, arguments, channel_argument, _CHANNEL_PROBES)
        if channels is not None and channels != 3:
            arguments[channel_argument] = channels
    class_argument = architecture.class_argument
    if class_argument is not None:
        _settle_classes(architecture, tensors, arguments, class_argument)
    return arguments


def _settle_classes(
    architecture: Architecture, tensors: Mapping[str, Tensor], arguments: dict[str, Any], name: str
) -> None:
    found = _varied(architecture, tensors, arguments, name, _CLASS_PROBES)
    if found is None:
        return
    if arguments.setdefault(name, found) != found:
        raise ModelLoadError(
            f"the checkpoint's classifier has {found} classes, but {arguments[name]} were asked "
            f"for. Leave the number of classes out, or give {found}"
        )


def _varied(
    architecture: Architecture,
    tensors: Mapping[str, Tensor],
    arguments: Arguments,
    name: str,
    probes: tuple[int, int],
) -> int | None:
    """The value of an argument under which a tensor gets the shape it has in the checkpoint.

    None when the argument changes no tensor that the checkpoint has, or none evenly.
    """
    low, high = (_blueprint_shapes(architecture, arguments, name, value) for value in probes)
    if low is None or high is None:
        return None
    have = shapes_of(strip_prefixes(tensors, low))
    for key, shape in reversed(list(low.items())):
        other = high.get(key, shape)
        if shape != other and len(have.get(key, ())) == len(shape) == len(other):
            value = _solve(shape, other, have[key], probes)
            if value is not None:
                return value
    return None


def _blueprint_shapes(
    architecture: Architecture, arguments: Arguments, name: str, value: int
) -> Shapes | None:
    try:
        return shapes_of(architecture.blueprint({**arguments, name: value}).state_dict())
    except ModelLoadError:
        if name in arguments or value == _CLASS_PROBES[0]:
            raise
        # Some networks cannot be built for one channel; then nothing is inferred.
        return None


def _solve(
    low: tuple[int, ...], high: tuple[int, ...], have: tuple[int, ...], probes: tuple[int, int]
) -> int | None:
    """Linear in the one axis that changed: the value that leads to the size in ``have``."""
    axes = [axis for axis, size in enumerate(low) if size != high[axis]]
    if len(axes) != 1:
        return None
    axis = axes[0]
    rise = high[axis] - low[axis]
    steps = (have[axis] - low[axis]) * (probes[1] - probes[0])
    value = probes[0] + steps // rise
    return value if steps % rise == 0 and value >= 1 else None


def _transformer_arguments(
    architecture: Architecture, tensors: Mapping[str, Tensor], given: Arguments
) -> dict[str, Any]:
    """Sizes of a ViT that differ from the named one's defaults, as the tensors have them."""
    plan = architecture.blueprint({k: v for k, v in given.items() if k not in _READ_OFF})
    want = shapes_of(plan.state_dict())
    have = shapes_of(strip_prefixes(tensors, want))
    patch, position = "patch_embed.proj.weight", "pos_embed"
    if not {patch, position} <= want.keys() & have.keys() or len(have[patch]) != 4:
        return {}
    found: dict[str, Any] = {}
    width, side = have[patch][0], have[patch][2]
    if side != want[patch][2]:
        found["patch_size"] = side
    if width != want[patch][0]:
        _need_heads(given, width)
        found["embed_dim"] = width
    if (depth := _depth(have)) != _depth(want):
        found["depth"] = depth
    found |= _mlp_ratio(have, want, width)
    found |= _image_size(plan, have[position], want[position], side)
    return {name: value for name, value in found.items() if name not in given}


def _need_heads(given: Arguments, width: int) -> None:
    if "num_heads" not in given:
        raise ModelLoadError(
            f"the checkpoint's transformer is {width} wide, unlike the named architecture, and "
            "its number of attention heads leaves no trace in the tensors. Give num_heads among "
            "the architecture arguments"
        )


def _depth(shapes: Shapes) -> int:
    blocks = (re.match(r"blocks\.(\d+)\.", name) for name in shapes)
    return 1 + max((int(block.group(1)) for block in blocks if block), default=-1)


def _mlp_ratio(have: Shapes, want: Shapes, width: int) -> dict[str, float]:
    name, patch = "blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"
    if name not in have or name not in want:
        return {}
    ratio, default = have[name][0] / width, want[name][0] / want[patch][0]
    return {} if ratio == default else {"mlp_ratio": ratio}


def _image_size(
    plan: object, have: tuple[int, ...], want: tuple[int, ...], patch: int
) -> dict[str, int]:
    """Image side from the number of positions, less those of class and register tokens."""
    patches = getattr(getattr(plan, "patch_embed", None), "num_patches", None)
    if not isinstance(patches, int) or len(have) != 3:
        return {}
    side = math.isqrt(max(have[1] - (want[1] - patches), 0))
    if side * side + want[1] - patches != have[1] or side < 1:
        return {}
    return {"img_size": side * patch}
