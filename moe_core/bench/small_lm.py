"""A small language model on bytes, trained with one router or another."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from moe_core.bench.timing import new_parser
from moe_core.lm.config import DecoderConfig, FeedForward, Option
from moe_core.lm.decoder import Decoder
from moe_core.training.config import TrainingConfig
from moe_core.training.corpus import TextCorpus
from moe_core.training.history import History
from moe_core.training.tokens import Bytes
from moe_core.training.trainer import train

log = logging.getLogger(__name__)


def arguments(module: str, doc: str | None) -> argparse.ArgumentParser:
    """What benchmarks that train a language model take."""
    parser = new_parser(module, doc)
    parser.add_argument("--text", type=Path, required=True, help="text to learn")
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--inner-dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=1)
    return parser


def trained(
    given: argparse.Namespace, router: str, options: Mapping[str, Option], *, seed: int
) -> tuple[Decoder, History]:
    """The same model, data and seed with one router; validated at its last step."""
    torch.manual_seed(seed)
    model = Decoder(config_of(given, feed_forward(given, router, options)))
    log.info("training with %s %s, seed %d", router, dict(options), seed)
    return model, train(model, corpus(given), training(given), seed=seed)


def config_of(given: argparse.Namespace, ffn: FeedForward) -> DecoderConfig:
    """A decoder with this feed-forward part in every layer."""
    return DecoderConfig(dim=given.dim, num_layers=given.layers, ffn=ffn)


def feed_forward(
    given: argparse.Namespace, router: str, options: Mapping[str, Option]
) -> FeedForward:
    """Plain experts behind a router."""
    return FeedForward(
        router=router,
        num_experts=given.experts,
        inner_dim=given.inner_dim,
        router_options={"top_k": given.top_k, **options},
    )


def corpus(given: argparse.Namespace) -> TextCorpus:
    """The text, as bytes."""
    return TextCorpus(Bytes().encode(given.text.read_text(encoding="utf-8")), Bytes.vocab_size)


def training(given: argparse.Namespace) -> TrainingConfig:
    """Validated once, at the end."""
    return TrainingConfig(
        steps=given.steps,
        batch_size=given.batch_size,
        length=given.length,
        validate_every=given.steps,
        validation_batches=48,
    )
