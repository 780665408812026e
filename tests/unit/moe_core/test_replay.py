"""Passes that start above a layer, or end at one, in every family and in a decoder of moe_core."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moe_core.replay import LayerStack, joined
from moe_core.view import ExpertId, ExpertView
from tests.moe_families import CONFIGS, batch, family_model, run
from tests.small_victims import untrained

DECODERS = [name for name in CONFIGS if name != "switch"]


class Reaching(nn.Module):
    """Two layers; the second also looks at what went into the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(8, 4)])
        self.kept = torch.zeros(0)
        self.layers[0].register_forward_hook(self._keep)

    def _keep(self, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.kept = output + torch.rand(())

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        out: Tensor = self.layers[1](torch.cat([x, self.kept], -1))
        return out


def stack_of(model: nn.Module) -> LayerStack:
    stack = LayerStack.of(model, ExpertView.of(model).names)
    assert stack is not None
    return stack


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_a_pass_that_starts_above_a_layer_ends_like_a_whole_one(name: str) -> None:
    model = family_model(name)
    stack = stack_of(model)
    whole, calls = stack.calls(lambda: run(model))
    inner = stack.layers[0].forward
    with stack.above(0, calls[0].output):
        assert torch.equal(run(model), whole)
    assert stack.layers[0].forward == inner
    assert stack.faithful(lambda: run(model))


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_ablations_of_one_layer_are_finished_in_one_batch(name: str) -> None:
    model, ids = family_model(name), batch()
    view, stack = ExpertView.of(model), stack_of(model)
    at = LayerStack.index(model, view.names[0])
    _, calls = stack.calls(lambda: run(model))
    made, plain = [], []
    for expert in (0, 3):
        with view.without([ExpertId(0, expert)]):
            plain.append(run(model))
            made.append(stack.again(0, at, calls))
    with stack.above(at, joined(made)):
        together = run(model, ids.repeat(2, 1))
    assert torch.allclose(together, torch.cat(plain), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_decoder_of_moe_core_can_be_cut_too() -> None:
    victim = untrained()
    texts = victim.batch(["a fine film", "the plot"], torch.tensor([1, 0]))
    model, stack = victim.model, stack_of(victim.model)
    assert stack.faithful(lambda: model(texts.ids_BT, texts.lengths_B).logits)
    _, calls = stack.calls(lambda: model(texts.ids_BT, texts.lengths_B))
    last = len(stack.layers) - 1
    assert torch.equal(stack.again(0, last, calls)[0], calls[last].output[0])
    first = calls[0].output
    assert torch.equal(joined([first, first])[0], first[0].repeat(2, 1, 1))


def test_a_model_whose_layers_hand_on_more_is_found_out() -> None:
    model = Reaching()
    assert not LayerStack(list(model.layers)).faithful(lambda: model(torch.ones(1, 4)))


def test_modules_of_several_lists_or_of_none_have_no_stack() -> None:
    switch = family_model("switch")
    assert LayerStack.of(switch, ExpertView.of(switch).names) is None
    assert LayerStack.of(nn.Sequential(nn.Linear(2, 2)), ["0"]) is None
