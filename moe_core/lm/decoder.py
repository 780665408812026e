"""The decoder: embedding, layers of attention and feed-forward part, a head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe_core.layer import MoELayer
from moe_core.lm.attention import INIT_STD, Attention, Memory
from moe_core.lm.config import DecoderConfig
from moe_core.lm.feedforward import make_feedforward
from moe_core.routers import Router
from moe_core.routing import Routing


class DecoderOutput(NamedTuple):
    """What a decoder returns.

    Attributes:
        logits: (batch, tokens, vocabulary) of a language model, or (batch, vocabulary) where it was
            given lengths; (batch, classes) of a classifier.
        routings: of each Mixture-of-Experts layer, in order; tokens of the batch lie row after row.
        states: that the logits were made from, (batch, tokens, width) or (batch, width).
    """

    logits: Tensor
    routings: tuple[Routing, ...]
    states: Tensor

    @property
    def aux_loss(self) -> Tensor:
        """Sum over the layers, scalar; to be added to the training loss."""
        losses = [routing.aux_loss for routing in self.routings]
        return torch.stack(losses).sum() if losses else self.logits.new_zeros(())


class DecoderLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + feedforward(norm(x))``."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = make_feedforward(config.dim, config.ffn_of(index))

    def forward(
        self, x_BTD: Tensor, ids_BT: Tensor, memory: Memory | None
    ) -> tuple[Tensor, Routing | None]:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), memory)
        normed = self.post_attention_layernorm(x_BTD)
        if not isinstance(self.mlp, MoELayer):
            return x_BTD + self.mlp(normed), None
        hidden, routing = self.mlp(normed, ids_BT)
        return x_BTD + hidden, routing


class Decoder(nn.Module):
    """A decoder-only transformer: a causal language model, or a classifier of whole texts.

    A classifier reads the state of the last token, which has seen all the others.

    Attributes:
        config: what it is made of.
        embed_tokens, layers, norm, head: its parts; all but the last are named as in Llama.
    Raises:
        ValueError: the configuration names a router, experts or an option that do not exist.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config, at) for at in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.head = nn.Linear(config.dim, len(config.classes) or config.vocab_size, bias=False)
        for part in (self.embed_tokens, self.head):
            nn.init.normal_(part.weight, std=INIT_STD)

    def forward(
        self,
        ids_BT: Tensor,
        lengths_B: Tensor | None = None,
        memory: Sequence[Memory] | None = None,
    ) -> DecoderOutput:
        """Run the model.

        Args:
            ids_BT: (batch, tokens) int64.
            lengths_B: of texts that were padded at their end, (batch,) int64; None if none was.
                With them a language model, too, answers for each text's last token alone.
            memory: one a layer, of the tokens before these; see ``new_memory``.
        """
        x_BTD = self.embed_tokens(ids_BT)
        routings = []
        for at, layer in enumerate(self.layers):
            x_BTD, routing = layer(x_BTD, ids_BT, memory[at] if memory else None)
            if routing is not None:
                routings.append(routing)
        if self.config.classes or lengths_B is not None:
            x_BTD = _last(x_BTD, lengths_B)
        x_BTD = self.norm(x_BTD)
        return DecoderOutput(self.head(x_BTD), tuple(routings), x_BTD)

    def __call__(
        self,
        ids_BT: Tensor,
        lengths_B: Tensor | None = None,
        memory: Sequence[Memory] | None = None,
    ) -> DecoderOutput:
        output: DecoderOutput = super().__call__(ids_BT, lengths_B, memory)
        return output

    def new_memory(self) -> list[Memory]:
        """Empty memories of all layers."""
        return [Memory() for _ in self.layers]

    def moe_layers(self) -> Iterator[MoELayer]:
        """The Mixture-of-Experts layers, in order."""
        return (layer.mlp for layer in self.layers if isinstance(layer.mlp, MoELayer))

    def routers(self) -> Iterator[Router]:
        """Of all Mixture-of-Experts layers, in order."""
        return (layer.router for layer in self.moe_layers())


def _last(x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
    """State of each text's last token, (batch, width)."""
    if lengths_B is None:
        return x_BTD[:, -1]
    return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), lengths_B - 1]
