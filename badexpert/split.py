"""Cut any network in two, so that one pass through the trunk serves several tuned tails.

Where it may be cut is read off the exported graph: after a node whose output is the only tensor
that anything later depends on. No architecture is listed anywhere.
"""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from badexpert.batchnorm import has_batch_norm
from badexpert.errors import AuditError


@dataclass(frozen=True)
class Cut:
    """A place where a network falls apart in two.

    Attributes:
        node: name of the graph node whose output crosses the cut: the input's leaves the whole
            network in the tail. Empty where there is no graph.
        tail_share: share of the network's floating-point operations behind the cut, in [0, 1].
        tail_layers: how many layers with operations to count lie behind the cut.
    """

    node: str
    tail_share: float
    tail_layers: int = 0


WHOLE = Cut(node="", tail_share=1.0)
"""The tail is the network as it is, not its graph: nothing is shared."""

DEEP_SHARE, DEEP_LAYERS = 0.35, 3
SHALLOW_SHARE, SHALLOW_LAYERS = 0.15, 2


class NetworkGraph:
    """A network as an exported graph, in eval mode, with a free batch size.

    Attributes:
        cuts: every possible cut that leaves something to tune behind it, input to output.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        """Export ``network`` once.

        Args:
            example: (batch >= 2, channels, height, width), what the network takes.
        Raises:
            AuditError: the network cannot be exported.
        """
        self._module = _export(network, example)
        self.cuts = _find_cuts(self._module, example)

    def at_share(self, tail_share: float) -> Cut:
        """The earliest cut whose tail costs at most ``tail_share`` of the network."""
        affordable = [cut for cut in self.cuts if cut.tail_share <= tail_share]
        return affordable[0] if affordable else self.cuts[-1]

    def default_cut(self) -> Cut:
        """Deep where batch-norm holds the tuned copies together, shallow where there is none.

        Small networks keep a few layers in the tail, whatever these cost.
        """
        share, layers = SHALLOW_SHARE, SHALLOW_LAYERS
        if has_batch_norm(self._module):
            share, layers = DEEP_SHARE, DEEP_LAYERS
        cut = self.at_share(share)
        if cut.tail_layers >= layers:
            return cut
        deeper = [other for other in self.cuts if other.tail_layers >= layers]
        return deeper[-1] if deeper else self.cuts[0]

    def last_places(self, cut: Cut) -> tuple[str, ...]:
        """Where to look for what the last layer takes: the last possible cut.

        Where that may be one position of a sequence, as in a vision transformer, the sequence comes
        first, if it lies behind ``cut`` or crosses it.
        """
        last = self.cuts[-1].node
        behind = [other.node for other in self.cuts[self.cuts.index(cut) :]]
        shapes = {
            node.name: node.meta["val"].shape
            for node in self._module.graph.nodes
            if node.name in behind
        }
        sequences = [
            place
            for place in behind
            if len(shapes[place]) == 3 and shapes[place][-1] == shapes[last][-1]
        ]
        return tuple(dict.fromkeys([*sequences[-1:], last]))

    def split(self, cut: Cut) -> tuple[nn.Module, nn.Module]:
        """The two halves; the trunk is frozen and shared, the tail is a copy that may be tuned.

        Returns:
            trunk: pixels -> features; tail: features -> logits. ``tail(trunk(x))`` is the network.
        Raises:
            AuditError: the network has no such cut.
        """
        if cut.node not in {known.node for known in self.cuts}:
            raise AuditError(
                f"this network cannot be cut after {cut.node!r}; another network, or another "
                f"version of torch (this is {torch.__version__}), gave the place that name"
            )
        tail = copy.deepcopy(_half(self._module, cut.node, after=True))
        if cut == self.cuts[0]:
            return nn.Identity(), tail
        return _frozen(_half(self._module, cut.node, after=False)).eval(), tail


def _export(network: nn.Module, example: Tensor) -> fx.GraphModule:
    try:
        with _silence():
            program = torch.export.export(
                network, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
            )
    except Exception as error:
        raise AuditError(
            f"this network cannot be exported as a graph ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}), so its trunk cannot "
            "be shared; tune full copies instead with tail_share = 1"
        ) from error
    return _in_log_space(program.module(check_guards=False))


@contextmanager
def _silence() -> Iterator[None]:
    """Where the export gives up, it prints the graph so far, and some versions log it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


_KEEPS_ORDER = {
    torch.ops.aten.clamp.default,
    torch.ops.aten.clamp_min.default,
    torch.ops.aten.to.dtype,
}


def _in_log_space(module: fx.GraphModule) -> fx.GraphModule:
    """Turn a softmax whose logarithm is taken at the very end into a log-softmax.

    A saturated softmax has no gradient and has forgotten how sure it was; its input has not.
    """
    (result,) = next(n for n in module.graph.nodes if n.op == "output").all_input_nodes
    node, logged = result, False
    while not logged or node.target in _KEEPS_ORDER:
        if node.target is torch.ops.aten.log.default:
            logged = True
        elif node.target not in _KEEPS_ORDER:
            return module
        node = node.args[0]
        assert isinstance(node, fx.Node)
    if node.target is not torch.ops.aten.softmax.int:
        return module
    with module.graph.inserting_before(node):
        logs = module.graph.call_function(torch.ops.aten.log_softmax.int, node.args, node.kwargs)
        logs.meta = dict(result.meta)
    result.replace_all_uses_with(logs)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _carries_data(node: fx.Node) -> bool:
    """Whether a tail that needs this node's output needs it across the cut."""
    size = isinstance(node.meta.get("val"), torch.SymInt)
    return node.op in ("placeholder", "call_function") and not size


def _is_computed_tensor(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)


def _last_tuned(module: fx.GraphModule, nodes: list[fx.Node]) -> int:
    """Where a parameter is used for the last time: a cut behind it leaves nothing to tune."""
    tuned = {
        name
        for name, values in module.named_parameters(remove_duplicate=False)
        if values.is_floating_point()
    }
    used = {node for node in nodes if node.op == "get_attr" and node.target in tuned}
    return max((i for i, node in enumerate(nodes) if used & set(node.all_input_nodes)), default=-1)


def _find_cuts(module: fx.GraphModule, example: Tensor) -> tuple[Cut, ...]:
    flops = _flops_per_node(module, example)
    nodes = list(module.graph.nodes)
    (entry,) = (node for node in nodes if node.op == "placeholder")
    batch = entry.meta["val"].shape[0]
    last_use = {used: i for i, node in enumerate(nodes) for used in node.all_input_nodes}
    last_tuned = _last_tuned(module, nodes)
    total = sum(flops.values())
    spent = 0
    passed: set[fx.Node] = set()
    cuts = [Cut(entry.name, 1.0, sum(count > 0 for count in flops.values()))]
    live: set[fx.Node] = set()
    for i, node in enumerate(nodes):
        spent += flops.get(node, 0)
        passed.add(node)
        if _carries_data(node):
            live.add(node)
        live = {values for values in live if last_use.get(values, -1) > i}
        behind = 1 - spent / total if total else 0.0
        useful = behind > 0 and i < last_tuned
        if useful and live == {node} and _is_computed_tensor(node) and _rows(node) == str(batch):
            layers = sum(count > 0 for later, count in flops.items() if later not in passed)
            cuts.append(Cut(node.name, behind, layers))
    return tuple(cuts)


def _rows(node: fx.Node) -> str:
    """The first dimension, which is an expression of the batch size or a number."""
    shape = node.meta["val"].shape
    return str(shape[0]) if shape else ""


class _FlopRecorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.flops: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> object:
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        self.flops[n] = counter.get_total_flops()
        return result


@torch.no_grad()
def _flops_per_node(module: fx.GraphModule, example: Tensor) -> dict[fx.Node, int]:
    recorder = _FlopRecorder(module)
    recorder.run(example)
    return recorder.flops


def _frozen(trunk: fx.GraphModule) -> fx.GraphModule:
    """The trunk over the same memory, but without the network's own parameters to switch off."""
    for layer in trunk.modules():
        for name, values in layer.named_parameters(recurse=False, remove_duplicate=False):
            setattr(layer, name, nn.Parameter(values.detach(), requires_grad=False))
    return trunk


def _half(module: fx.GraphModule, name: str, *, after: bool) -> fx.GraphModule:
    """Copy the nodes on one side of node ``name`` into a module of their own."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    nodes = list(module.graph.nodes)
    at = next(i for i, node in enumerate(nodes) if node.name == name)
    crossing = nodes[at]
    if after:
        entry = graph.placeholder("features")
        # An in-place operation in one tail would spoil the features for the next.
        copied[crossing] = graph.call_function(torch.ops.aten.clone.default, (entry,))
        _copy_sizes(nodes[: at + 1], graph, entry, copied)
    chosen = [node for node in nodes[: at + 1] if not after] + [
        node for i, node in enumerate(nodes) if after and (i > at or node.op == "get_attr")
    ]
    for node in chosen:
        if node.op != "output" and node not in copied:
            copied[node] = graph.node_copy(node, lambda used: copied[used])
    graph.output(copied[_only_output(nodes) if after else crossing])
    graph.eliminate_dead_code()
    half = fx.GraphModule(module, graph)
    half.graph.lint()
    return half


def _only_output(nodes: list[fx.Node]) -> fx.Node:
    (output,) = (node for node in nodes if node.op == "output")
    (result,) = output.all_input_nodes
    return result


def _copy_sizes(
    nodes: list[fx.Node], graph: fx.Graph, entry: fx.Node, copied: dict[fx.Node, fx.Node]
) -> None:
    """Multiples of the batch size are read off the input early and used late: rebuild them."""
    rows = graph.call_function(torch.ops.aten.sym_size.int, (entry, 0))
    rows_now = _hint(nodes[-1].meta["val"].shape[0])
    for node in nodes:
        if isinstance(node.meta.get("val"), torch.SymInt):
            scaled = graph.call_function(operator.mul, (rows, _hint(node.meta["val"])))
            copied[node] = graph.call_function(operator.floordiv, (scaled, rows_now))


def _hint(size: int | torch.SymInt) -> int:
    """What a symbolic size was for the example."""
    if not isinstance(size, torch.SymInt):
        return size
    hint = size.node.hint
    assert isinstance(hint, int)
    return hint
