"""An unmodified model of transformers on the Triton programs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", minversion="5")

from moe_core.kernels.in_transformers import use_fused_experts, watching
from tests.transformers_models import FAMILIES, loss_and_gradients, model_of


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_gradients_and_what_is_seen_are_those_of_plain_torch(family: str) -> None:
    model = model_of(family)
    expected = loss_and_gradients(model)
    use_fused_experts(model, backend="reference")
    with watching(model) as plain:
        loss_and_gradients(model)
    use_fused_experts(model, backend="triton")
    with watching(model) as seen:
        got = loss_and_gradients(model)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for name, (one,) in seen.items():
        (other,) = plain[name]
        for field in ("contribution_TK", "alignment_TK", "attribution_TK"):
            torch.testing.assert_close(
                getattr(one, field), getattr(other, field), rtol=1e-4, atol=1e-5
            )
