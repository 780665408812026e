"""Run a decoder from one of its layers on: what is below need not be computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Self, TypeVar

import torch
from torch import Tensor, nn

_Result = TypeVar("_Result")

_ROUNDING = 1e-6
"""Of sums in another order, as some GPU kernels make them."""


class _EndError(Exception):
    """The layer that was asked about has answered."""


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

    def outputs(self, run: Callable[[], _Result]) -> tuple[_Result, list[Any]]:
        """The result of a pass, and what each layer returned in it."""
        returned: list[Any] = [None] * len(self.layers)

        def keep(at: int) -> Callable[[nn.Module, Any, Any], None]:
            def seen(_layer: nn.Module, _inputs: Any, output: Any) -> None:
                returned[at] = output

            return seen

        hooks = [layer.register_forward_hook(keep(at)) for at, layer in enumerate(self.layers)]
        try:
            return run(), returned
        finally:
            for hook in hooks:
                hook.remove()

    def output(self, at: int, run: Callable[[], object]) -> Any:
        """What one layer returns in a pass, which ends there.

        Raises:
            ValueError: the pass does not reach the layer.
        """
        returned: list[Any] = []

        def seen(_layer: nn.Module, _inputs: Any, output: Any) -> NoReturn:
            returned.append(output)
            raise _EndError

        hook = self.layers[at].register_forward_hook(seen)
        try:
            run()
        except _EndError:
            return returned[0]
        finally:
            hook.remove()
        raise ValueError(f"the pass never reached layer {at} of {len(self.layers)}")

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
        """Whether passes that start above a layer end like a whole pass."""
        whole, outputs = self.outputs(run)
        for at, output in enumerate(outputs):
            with self.above(at, output):
                if not torch.allclose(run(), whole, rtol=_ROUNDING, atol=_ROUNDING):
                    return False
        return True


def joined(outputs: Sequence[Any]) -> Any:
    """What a layer returned for several batches, as if it had been given them in one."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))
    # What stands beside the hidden state (routings, attention) is of no use to the next layer.
    return (torch.cat([output[0] for output in outputs]), *first[1:])


def _list_above(model: nn.Module, path: str) -> str | None:
    """Path of the outermost ``ModuleList`` that a module lies in."""
    parts = path.split(".")
    for count in range(1, len(parts)):
        name = ".".join(parts[:count])
        if isinstance(model.get_submodule(name), nn.ModuleList):
            return name
    return None
