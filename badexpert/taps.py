"""Read what a graph computes on the way to its result, in the same pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection

import torch
from torch import Tensor, fx
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from badexpert.errors import AuditError

VALUES = 512
"""Of an output, at most so many are read."""


def tapped(tail: fx.GraphModule, entry: str, places: Collection[str]) -> fx.GraphModule:
    """A copy that returns its result and what it computed at some places, as rows.

    Args:
        entry: the place whose output the tail takes.
        places: names of nodes.
    Returns:
        A module: features -> (result, rows), see ``as_rows``; those of one place after those of
        another.
    Raises:
        AuditError: there is no such place.
    """
    module = copy.deepcopy(tail)
    graph = module.graph
    nodes = {node.name: node for node in graph.nodes}
    (start,) = (node for node in graph.nodes if node.op == "placeholder")
    read = []
    for place in places:
        node = start if place == entry else nodes.get(place)
        if node is None:
            raise AuditError(
                f"this network has no place {place!r} behind its cut; another network, or another "
                f"version of torch (this is {torch.__version__}), gave it that name"
            )
        # Read at once: an in-place operation may come next.
        with graph.inserting_after(node):
            read.append(graph.call_function(as_rows, (node,)))
    (output,) = (node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        rows = graph.call_function(torch.cat, (read, 1))
    output.args = ((output.args[0], rows),)
    module.recompile()
    return module


def as_rows(output: Tensor, most: int = VALUES) -> Tensor:
    """(batch, values) fp32 of a layer's (batch, ...) output, in memory of their own.

    An output of more than ``most`` values is averaged over its positions, and where that is not
    enough over neighbouring channels, until at most so many are left.
    """
    values = math.prod(output.shape[1:])
    if output.ndim == 4 and values > most:
        output = adaptive_avg_pool2d(output, max(math.isqrt(most // output.shape[1]), 1))
    elif output.ndim == 3 and values > most:
        output = adaptive_avg_pool1d(output.mT, max(most // output.shape[2], 1))
    rows = output.flatten(1).float()
    if rows.shape[1] > most:
        rows = adaptive_avg_pool1d(rows[:, None], most).squeeze(1)
    return rows.clone()
