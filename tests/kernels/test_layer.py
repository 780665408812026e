"""A layer runs on the Triton programs where it can, and its hooks see and change the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from moe_core.kernels.gpu import experts as gpu
from moe_core.layer import MoELayer
from tests.moe_layers import DIM, EXPERTS, layer, token_by_token, tokens

HOOKS: dict[str, Callable[[MoELayer], AbstractContextManager[object]]] = {
    "without": lambda made: made.without({0}),
    "zeroed": lambda made: made.zeroed({0}),
    "averaged": lambda made: made.averaged({0}, torch.ones(EXPERTS, DIM)),
    "forced": lambda made: made.forced(torch.tensor([[1, 0]])),
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each forward pass on the programs."""
    passes: list[int] = []
    forward = gpu.forward

    def counted(*arguments: object, **options: object) -> gpu.Forward:
        passes.append(1)
        return forward(*arguments, **options)

    monkeypatch.setattr(gpu, "forward", counted)
    return passes


def test_the_layer_and_its_recording(launched: list[int]) -> None:
    made, x = layer(dtype=torch.float32), tokens(dtype=torch.float32)
    with made.recording() as recording:
        out, routing = made(x)
    assert len(launched) == 1
    torch.testing.assert_close(out, token_by_token(made, x, routing))
    with made.recording() as expected, made.averaging():
        made(x)
    assert len(launched) == 1
    torch.testing.assert_close(recording.passes[0], expected.passes[0])


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_change_the_same_as_in_fp64_by_rows(name: str, launched: list[int]) -> None:
    wide, x = layer(), tokens()
    made = layer(dtype=torch.float32)
    with HOOKS[name](wide), HOOKS[name](made):
        expected, out = wide(x).hidden, made(x.float()).hidden
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert len(launched) == (0 if name == "averaged" else 1)
