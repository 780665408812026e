"""Routers of Mixture-of-Experts layers inside a network that is tuned."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from moe_core.families import known_layers, unknown_blocks
from moe_core.layer import MoELayer


def freeze_routers(network: nn.Module) -> None:
    """Let no router learn: a network with experts would forget by sending tokens elsewhere."""
    for _, router in routers_of(network):
        router.requires_grad_(False)


def note_of_unknown_routers(network: nn.Module) -> tuple[str, ...]:
    """A note if there are experts whose routers are not known, and are tuned like all else."""
    unknown = unknown_blocks(network, known={path for path, _ in routers_of(network)})
    if not unknown:
        return ()
    return (f"the routers of {', '.join(unknown)} are not known, and were not held fixed",)


def routers_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All that are known, with the path of the layer that each belongs to."""
    for path, part in network.named_modules():
        if isinstance(part, MoELayer):
            yield path, part.router
    for path, layer in known_layers(network):
        yield path, layer.router
