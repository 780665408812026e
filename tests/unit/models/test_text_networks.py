"""What a language model's head takes is read with the answer; a common beginning is read once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from badexpert.models import text_networks
from badexpert.models.backbones import Backbone, DecoderBackbone, TransformersBackbone
from badexpert.models.text_networks import (
    ClassHeadNetwork,
    ClassNetwork,
    LabelWordNetwork,
    StateReader,
    padded,
)
from moe_core.lm.config import DecoderConfig
from moe_core.lm.decoder import Decoder
from tests.moe_families import CONFIGS, batch, family_model
from tests.small_language_models import TINY

WORDS = [5, 9]
DECODERS = [name for name in CONFIGS if name != "switch"]


def transformers_class(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TINY, num_labels=2)
    made: nn.Module = getattr(transformers, name)(config)
    return made.eval()


def decoder(classes: tuple[str, ...] = ()) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(vocab_size=40, dim=16, num_layers=2, num_heads=2, classes=classes))


def network(kind: str) -> tuple[ClassNetwork, Tensor]:
    """A network, and the weight that makes its scores of states, (classes, width)."""
    if kind == "transformers, label words":
        model = transformers_class("LlamaForCausalLM")
        return labels(TransformersBackbone(model), model.get_output_embeddings())  # type: ignore[operator]
    if kind == "transformers, classes":
        model = transformers_class("LlamaForSequenceClassification")
        return ClassHeadNetwork(TransformersBackbone(model)), model.score.weight  # type: ignore[union-attr, return-value]
    if kind == "decoder, label words":
        own = decoder()
        return labels(DecoderBackbone(own), own.head)
    own = decoder(("no", "yes"))
    return ClassHeadNetwork(DecoderBackbone(own)), own.head.weight


def backbone_of(name: str) -> Backbone:
    if name == "decoder":
        return DecoderBackbone(decoder())
    return TransformersBackbone(family_model(name))


def labels(backbone: Backbone, head: nn.Linear) -> tuple[ClassNetwork, Tensor]:
    return LabelWordNetwork(backbone, WORDS), head.weight[WORDS]


@pytest.mark.parametrize(
    "kind",
    [
        "transformers, label words",
        "transformers, classes",
        "decoder, label words",
        "decoder, classes",
    ],
)
@torch.no_grad()
def test_scores_are_made_of_the_states(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, weight = network(kind)
    lengths = [7, 2, 5, 7, 3]
    rows = padded([torch.arange(1, 1 + length) * 5 % 40 for length in lengths])
    wanted = made(rows)
    monkeypatch.setattr(text_networks, "TOKENS_A_PASS", 10)
    scores, states = StateReader(made)(rows)
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states @ weight.T, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*DECODERS, "decoder"])
@torch.no_grad()
def test_rows_that_begin_alike_get_their_scores_for_less(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LabelWordNetwork(backbone_of(name), WORDS)
    start, ends = batch(1, 6)[0], batch(5, 4, seed=2)
    whole = made(torch.cat([start.expand(5, -1), ends], dim=1))
    read: list[int] = []
    made.backbone.module.register_forward_pre_hook(
        lambda _module, given, named: read.append(
            (named["input_ids"] if "input_ids" in named else given[0]).numel()
        ),
        with_kwargs=True,
    )
    monkeypatch.setattr(text_networks, "TOKENS_A_PASS", 20)
    torch.testing.assert_close(made.after(start, ends), whole, rtol=1e-4, atol=1e-4)
    # The beginning, one row whole and in parts, then all rows, two at a time.
    assert read == [6, 10, 4, 8, 8, 4]


@torch.no_grad()
def test_nothing_is_saved_where_it_would_change_the_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, _ = network("decoder, label words")
    start, ends = batch(1, 6)[0], batch(5, 4, seed=2)
    whole = made(torch.cat([start.expand(5, -1), ends], dim=1))
    forgotten = decoder().new_memory()
    monkeypatch.setattr(made.backbone, "remembered", lambda _start: forgotten)
    assert torch.equal(made.after(start, ends), whole)
    assert torch.equal(made.after(start[:0], ends), made(ends))


def test_a_classifier_reads_rows_whole() -> None:
    for kind in ("transformers, classes", "decoder, classes"):
        made, _ = network(kind)
        start, ends = batch(1, 6)[0], batch(5, 4, seed=2)
        assert torch.equal(
            made.after(start, ends), made(torch.cat([start.expand(5, -1), ends], dim=1))
        )
