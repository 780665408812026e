"""Causal attention with rotary positions and grouped queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core.lm.config import PER_HEAD, DecoderConfig
from moe_core.lora import LoraLinear

INIT_STD = 0.02


class Memory:
    """Keys and values that one layer has seen, so that generation computes each token once.

    Attributes:
        length: tokens seen.
    """

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        return 0 if self._seen is None else self._seen[0].shape[2]

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones last; each (batch, heads, tokens, head width)."""
        if self._seen is not None:
            keys = torch.cat([self._seen[0], keys], dim=2)
            values = torch.cat([self._seen[1], values], dim=2)
        self._seen = keys, values
        return keys, values

    def repeated(self, rows: int) -> Memory:
        """A memory of as many rows that all began like this one's only row."""
        made = Memory()
        if self._seen is not None:
            keys, values = (part.expand(rows, -1, -1, -1) for part in self._seen)
            made._seen = keys, values
        return made


class Attention(nn.Module):
    """Scaled dot products of rotated queries and keys; a token sees itself and earlier ones."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self._config = config
        dim, shared = config.dim, config.num_kv_heads * config.head_dim
        self.q_proj = _projection(dim, dim, config)
        self.k_proj = _projection(dim, shared, config)
        self.v_proj = _projection(dim, shared, config)
        self.o_proj = _projection(dim, dim, config)
        if config.qk_norm:
            widths = (config.head_dim,) * 2 if config.qk_norm == PER_HEAD else (dim, shared)
            self.q_norm, self.k_norm = (nn.RMSNorm(width, eps=config.norm_eps) for width in widths)

    def forward(self, x_BTD: Tensor, memory: Memory | None) -> Tensor:
        queries, keys = self.q_proj(x_BTD), self.k_proj(x_BTD)
        if self._config.qk_norm is True:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = self._heads(queries), self._heads(keys)
        if self._config.qk_norm == PER_HEAD:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        start = memory.length if memory else 0
        turned = rotations(start, x_BTD.shape[1], self._config, x_BTD.device)
        queries, keys = rotate(queries, turned), rotate(keys, turned)
        values = self._heads(self.v_proj(x_BTD))
        if memory is not None:
            keys, values = memory.extended(keys, values)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=_visible(queries, keys), enable_gqa=True
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x_BTD: Tensor) -> Tensor:
        heads: Tensor = x_BTD.unflatten(-1, (-1, self._config.head_dim)).transpose(1, 2)
        return heads


def rotations(
    start: int, length: int, config: DecoderConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, both (tokens, head width) fp32."""
    half = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32)
    frequencies = 1.0 / config.rope_theta ** (half / config.head_dim)
    places = torch.arange(start, start + length, device=device, dtype=torch.float32)
    angles = torch.outer(places, frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of features by their position's angle; feature i pairs with i + half the width.

    Source: Su et al., RoFormer, arXiv:2104.09864, in the order of features of transformers.
    """
    cos, sin = (part.to(x.dtype) for part in turned)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _visible(queries: Tensor, keys: Tensor) -> Tensor:
    """Which keys a query may see, (queries, keys) bool; the last query sees all."""
    asked, known = queries.shape[2], keys.shape[2]
    every = torch.ones(asked, known, dtype=torch.bool, device=queries.device)
    return every.tril(known - asked)


def _projection(inputs: int, outputs: int, config: DecoderConfig) -> nn.Module:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=INIT_STD)
    return linear if config.attention_lora is None else LoraLinear(linear, config.attention_lora)
