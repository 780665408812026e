"""Small layers whose routing is awkward, and how two answers are compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from moe_core.kernels import Fused, fused_experts

EXPERTS = 5
_EVEN = torch.arange(26).reshape(13, 2) % EXPERTS
ROUTINGS = {
    "even": _EVEN,
    "experts 1 and 3 are idle": torch.tensor([[0, 2], [4, 0], [2, 4]]).repeat(6, 1),
    "one takes all": torch.full((37, 1), 2),
    "every expert for every token": torch.arange(EXPERTS).repeat(7, 1),
    "slots that run nothing": torch.where(_EVEN % 3 == 0, torch.tensor([-1, EXPERTS]), _EVEN),
    "nothing runs": torch.full((3, 2), -2),
    "no tokens": torch.empty(0, 2, dtype=torch.int64),
    "a token twice to one expert": torch.tensor([[1, 1, 0]]).repeat(18, 1),
}


class Problem(NamedTuple):
    """Inputs of ``fused_experts``, all with gradient, and a gradient of its output."""

    x: Tensor
    gate_up: Tensor
    down: Tensor
    weights: Tensor
    experts: Tensor
    grad: Tensor

    @property
    def learned(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self[:4]

    def to(self, dtype: torch.dtype) -> Problem:
        learned = (part.detach().to(dtype).requires_grad_() for part in self.learned)
        return Problem(*learned, self.experts, self.grad.to(dtype))

    def run(self, backend: str, **options: object) -> Fused:
        x, gate_up, down, weights = self.learned
        return fused_experts(x, gate_up, down, self.experts, weights, backend=backend, **options)

    def gradients(self, backend: str, **options: object) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.run(backend, **options).out_TD, self.learned, self.grad)


def problem(
    experts: Tensor, *, width: int = 24, inner: int = 20, dtype: torch.dtype = torch.float32
) -> Problem:
    tokens, slots = experts.shape
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return Problem(
        x=random(tokens, width).requires_grad_(),
        gate_up=random(EXPERTS, 2 * inner, width).mul_(0.3).requires_grad_(),
        down=random(EXPERTS, width, inner).mul_(0.3).requires_grad_(),
        weights=random(tokens, slots).requires_grad_(),
        experts=experts,
        grad=random(tokens, width),
    )


def assert_same(got: object, expected: object, dtype: torch.dtype) -> None:
    """Equal within what rounding to the dtype does to sums of a few dozen terms."""
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, check_dtype=False)
