"""What a decoder is made of, as plain data that a TOML or JSON file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from moe_core.lora import LoraSettings

DENSE = "dense"
"""Stands for experts where a layer has none: one SwiGLU network that every token passes."""

PER_HEAD: Literal["per-head"] = "per-head"
"""Of ``qk_norm``."""

Option = bool | int | float | str | tuple[int, ...]


def _require_whole(*sizes: object) -> None:
    if wrong := [size for size in sizes if not isinstance(size, int)]:
        raise ValueError(f"sizes are whole numbers; got {wrong}")


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of a layer.

    Attributes:
        router: key of ``ROUTERS`` or ``random``; ignored by a dense layer.
        experts: key of ``EXPERTS``, ``duo``, or ``dense``.
        num_experts: to route to; ignored by a dense layer.
        inner_dim: width inside one expert, or inside the dense network.
        shared_dim: width of a network that every token passes in addition; 0 for none.
        router_options: further arguments of the router, such as ``top_k``.
        expert_options: further arguments of the experts; of ``lora``, those of ``LoraSettings``.
    """

    router: str = "softmax"
    experts: str = "swiglu"
    num_experts: int = 8
    inner_dim: int = 128
    shared_dim: int = 0
    router_options: Mapping[str, Option] = field(default_factory=dict)
    expert_options: Mapping[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_whole(self.num_experts, self.inner_dim, self.shared_dim)
        if min(self.num_experts, self.inner_dim) < 1 or self.shared_dim < 0:
            raise ValueError("num_experts and inner_dim are at least 1, shared_dim at least 0")


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and parts of a decoder.

    Attributes:
        vocab_size: 256 for bytes.
        dim: width of the model.
        num_layers: transformer layers.
        num_heads: query heads; each is ``dim / num_heads`` wide.
        num_kv_heads: key and value heads, which groups of query heads share.
        ffn: of all layers but those in ``other_ffn``.
        other_ffn: by index of the layer, from 0.
        rope_theta: base of the rotary positions.
        norm_eps: of all RMS norms.
        qk_norm: normalise queries and keys over all heads, as OLMoE does, or each head by itself
            (``per-head``), as Qwen3 does.
        attention_lora: low-rank updates of frozen attention projections; None for plain attention.
        classes: names of the classes; with any, the head classifies the whole text.
    """

    vocab_size: int = 256
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    ffn: FeedForward = field(default_factory=FeedForward)
    other_ffn: Mapping[int, FeedForward] = field(default_factory=dict)
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qk_norm: bool | Literal["per-head"] = True
    attention_lora: LoraSettings | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.dim, self.num_layers, self.num_heads, self.num_kv_heads)
        _require_whole(*sizes)
        if min(sizes) < 1:
            raise ValueError("vocab_size, dim, num_layers and numbers of heads are at least 1")
        if self.dim % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"dim={self.dim} must be an even multiple of num_heads={self.num_heads}, and "
                f"num_heads a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if wrong := [at for at in self.other_ffn if not 0 <= at < self.num_layers]:
            raise ValueError(f"other_ffn names layers {wrong}; there are {self.num_layers}")
        if self.qk_norm not in (False, True, PER_HEAD):
            raise ValueError(f"qk_norm is true, false or {PER_HEAD!r}; got {self.qk_norm!r}")
        if len(self.classes) == 1:
            raise ValueError("a classifier needs at least 2 classes; none make a language model")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    def ffn_of(self, layer: int) -> FeedForward:
        """The feed-forward part of one layer."""
        return self.other_ffn.get(layer, self.ffn)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of what ``dataclasses.asdict`` made and JSON kept.

        Raises:
            ValueError: a key is unknown or a value impossible.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(document.keys() - known):
            raise ValueError(f"a decoder has no settings {unknown}")
        try:
            values = dict(document)
            values["ffn"] = FeedForward(**document["ffn"])
            others = document["other_ffn"].items()
            values["other_ffn"] = {int(at): FeedForward(**ffn) for at, ffn in others}
            if document["attention_lora"] is not None:
                values["attention_lora"] = LoraSettings(**document["attention_lora"])
            values["classes"] = tuple(document["classes"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the settings of the decoder cannot be read: {error}") from error
