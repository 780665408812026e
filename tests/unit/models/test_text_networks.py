"""What a language model's head takes is read on the pass that gives the answer."""

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
from tests.small_language_models import TINY

WORDS = [5, 9]


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
