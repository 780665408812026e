"""Layers of a decoder run again, and passes that start above one: only what has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

_Result = TypeVar("_Result")

_ROUNDING = 1e-6
"""Of sums in another order, as some GPU kernels make them."""

_CACHES = frozenset({"cache", "past_key_values"})
"""What transformers lets layers fill for generation, by its name from 5.24 on and before; one that
runs again must not do it twice."""


class Call(NamedTuple):
    """One run of a layer.

    Attributes:
        inputs, options: positional and named; the hidden state is the first of ``inputs``.
        output: what it returned.
    """

    inputs: tuple[Any, ...]
    options: dict[str, Any]
    output: Any


class LayerStack:
    """The layers of a decoder, each of which takes what the one before returned.

    Everything is the model's own code: its layers run, or what they once returned stands for them.
    So a pass that starts above some layer gives the numbers of a whole pass to the last bit, if
    layers hand nothing else on. ``faithful`` tries it.

    Args:
        layers: in the order in which they run.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = tuple(layers)

    @classmethod
    def of(cls, model: nn.Module, paths: Iterable[str]) -> Self | None:
        """The list of layers that all these modules lie in; None where there is no such list."""
        lists = {_list_above(model, path) for path in paths}
        if len(lists) != 1 or (name := lists.pop()) is None:
            return None
        return cls(list(model.get_submodule(name).children()))

    @staticmethod
    def index(model: nn.Module, path: str) -> int:
        """The layer that a module lies in, counted from 0; of a module in such a list."""
        name = _list_above(model, path)
        assert name is not None, f"{path} lies in no list of layers"
        return int(path[len(name) :].lstrip(".").split(".")[0])

    def calls(self, run: Callable[[], _Result]) -> tuple[_Result, list[Call]]:
        """The result of a pass, and how each layer ran in it."""
        made: dict[int, Call] = {}

        def keep(at: int) -> Callable[..., None]:
            def seen(_layer: nn.Module, inputs: Any, options: Any, output: Any) -> None:
                named = {name: None if name in _CACHES else v for name, v in options.items()}
                made[at] = Call(inputs, named, output)

            return seen

        hooks = [
            layer.register_forward_hook(keep(at), with_kwargs=True)
            for at, layer in enumerate(self.layers)
        ]
        try:
            result = run()
        finally:
            for hook in hooks:
                hook.remove()
        return result, [made[at] for at in range(len(self.layers))]

    def again(self, first: int, last: int, calls: Sequence[Call]) -> Any:
        """What a layer returns now, if all from ``first`` on run again as in an earlier pass."""
        inputs, output = calls[first].inputs, None
        for at in range(first, last + 1):
            output = self.layers[at](*inputs, **calls[at].options)
            if at < last:
                inputs = (hidden_of(output), *calls[at + 1].inputs[1:])
        return output

    @contextmanager
    def above(self, at: int, output: Any) -> Iterator[None]:
        """Inside, layers up to this one do not run, and ``output`` stands for what it returned.

        Args:
            at: -1 lets all layers run.
        """
        skipped = self.layers[: at + 1]
        own = [vars(layer).get("forward") for layer in skipped]
        for layer in skipped:
            vars(layer)["forward"] = lambda *_args, **_options: output
        try:
            yield
        finally:
            for layer, forward in zip(skipped, own, strict=True):
                del vars(layer)["forward"]
                if forward is not None:
                    vars(layer)["forward"] = forward

    def faithful(self, run: Callable[[], Tensor]) -> bool:
        """Whether layers give the same when run again, and passes above them end the same."""
        whole, calls = self.calls(run)
        for at, call in enumerate(calls):
            if not call.inputs or not _alike(self.again(at, at, calls), call.output):
                return False
            with self.above(at, call.output):
                if not _alike(run(), whole):
                    return False
        return True


def joined(outputs: Sequence[Any]) -> Any:
    """What a layer returned for several batches, as if it had been given them in one."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))
    # What stands beside the hidden state (routings, attention) is of no use to the next layer.
    return (torch.cat([output[0] for output in outputs]), *first[1:])


def _alike(found: Any, wanted: Any) -> bool:
    return torch.allclose(hidden_of(found), hidden_of(wanted), rtol=_ROUNDING, atol=_ROUNDING)


def hidden_of(output: Any) -> Tensor:
    """The hidden state that a layer returned, alone or in front of other things."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def _list_above(model: nn.Module, path: str) -> str | None:
    """Path of the outermost ``ModuleList`` that a module lies in."""
    parts = path.split(".")
    for count in range(1, len(parts)):
        name = ".".join(parts[:count])
        if isinstance(model.get_submodule(name), nn.ModuleList):
            return name
    return None
