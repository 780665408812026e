"""The head of a language model is run on last tokens alone, whatever the model does around it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from badexpert.models.backbones import TransformersBackbone
from tests.moe_families import CONFIGS, batch, family_model
from tests.small_language_models import TINY

DECODERS = [name for name in CONFIGS if name != "switch"]
LENGTHS = torch.tensor([7, 3, 3])
SCALED = {
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 4},
    "granite": {"logits_scaling": 8.0},
}
"""Families that change their logits after the head, each visibly."""


def scaled_model(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.CONFIG_MAPPING[name](**TINY | SCALED[name])
    torch.manual_seed(0)
    model: nn.Module = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    return model.eval()


@contextmanager
def shapes_given_to(head: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    seen: list[tuple[int, ...]] = []
    hook = head.register_forward_hook(lambda _head, states, _out: seen.append(states[0].shape[:-1]))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("name", [*DECODERS, *SCALED])
@torch.no_grad()
def test_last_logits_are_those_of_a_whole_pass_at_less_cost(name: str) -> None:
    model = scaled_model(name) if name in SCALED else family_model(name)
    backbone, ids = TransformersBackbone(model), batch()
    mask = (torch.arange(ids.shape[1]) < LENGTHS[:, None]).long()
    chosen = mask.bool() & (torch.arange(ids.shape[1]) > 0)
    whole = model(input_ids=ids, attention_mask=mask).logits
    with shapes_given_to(model.get_output_embeddings()) as seen:  # type: ignore[operator]
        last = backbone.last(ids, LENGTHS).logits
        after = backbone.logits_at(ids, LENGTHS, chosen)
    torch.testing.assert_close(last, whole[torch.arange(3), LENGTHS - 1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after, whole[chosen], rtol=1e-5, atol=1e-5)
    assert seen == [(1, 3), (1, int(chosen.sum()))]


def test_requests_of_several_threads_do_not_meet_in_the_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone, ids = TransformersBackbone(family_model("olmoe")), batch()
    requests = [(ids, LENGTHS), (ids[:2], torch.tensor([2, 6]))]
    with torch.no_grad():
        alone = [backbone.last(*request).logits for request in requests]
    together, run = Barrier(2), backbone._run

    def waiting(*arguments: Any, **options: Any) -> Any:
        together.wait(timeout=60)
        made = run(*arguments, **options)
        together.wait(timeout=60)
        return made

    @torch.no_grad()
    def asked(request: tuple[Tensor, Tensor]) -> Tensor:
        return backbone.last(*request).logits

    monkeypatch.setattr(backbone, "_run", waiting)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(asked, requests))
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("name", SCALED)
@torch.no_grad()
def test_what_these_models_do_to_their_logits_can_be_seen(name: str) -> None:
    model, ids = scaled_model(name), batch(1)
    states = model.get_submodule("model")(input_ids=ids).last_hidden_state
    plain = model.get_output_embeddings()(states)  # type: ignore[operator]
    assert (plain - model(input_ids=ids).logits).abs().max() > 0.1
