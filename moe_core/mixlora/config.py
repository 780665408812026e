"""What ``adapter_config.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_core.lora import LoraSettings

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN = ("gate_proj", "down_proj", "up_proj")
"""Linear maps, as Llama names them."""

_KIND = "MIXLORA"
_ROUTING = "mixlora"


@dataclass(frozen=True)
class MixLoraConfig:
    """Settings of an adapter, in the words of its file where they are clear.

    Attributes:
        num_experts: of each layer.
        top_k: experts per token.
        lora: of the attention; of the experts too, unless ``expert_lora`` is given.
        expert_lora: of the experts. The package ``mixlora`` reads it and then builds the experts
            with ``lora`` all the same; the code that trains adapters does not. See ``experts``.
        targets: names of linear maps with updates, in attention and FFN.
        router_aux_loss_coef: of the balance loss.
        base_model: name of the model that the adapter was trained on.
        task_type: as in PEFT.
        act_fn: activation of the FFN where it is not the base model's own.
    """

    num_experts: int = 8
    top_k: int = 2
    lora: LoraSettings = field(default_factory=LoraSettings)
    expert_lora: LoraSettings | None = None
    targets: tuple[str, ...] = ATTENTION + FFN
    router_aux_loss_coef: float = 1e-3
    base_model: str = ""
    task_type: str = "CAUSAL_LM"
    act_fn: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k={self.top_k} of {self.num_experts} experts; give at least 1")

    def experts(self, *, as_in_package: bool = False) -> LoraSettings:
        """Settings that scale the experts' updates.

        Args:
            as_in_package: what the inference package ``mixlora`` does with this adapter.
        """
        return self.lora if as_in_package or self.expert_lora is None else self.expert_lora

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MixLoraConfig:
        """Understand a parsed ``adapter_config.json``.

        Raises:
            ValueError: it is no MixLoRA adapter, uses DoRA, or lacks a setting.
        """
        kind = document.get("peft_type"), document.get("routing_strategy")
        if kind != (_KIND, _ROUTING):
            raise ValueError(
                f"peft_type and routing_strategy are {kind}; a MixLoRA adapter has "
                f"{(_KIND, _ROUTING)}"
            )
        nested = document.get("expert_lora")
        if document.get("use_dora") or (nested or {}).get("use_dora"):
            raise ValueError("the adapter uses DoRA, whose magnitudes its files do not hold")
        lora = _settings(document, None)
        return cls(
            num_experts=_whole(document, "num_experts"),
            top_k=_whole({"top_k": 2} | dict(document), "top_k"),
            lora=lora,
            expert_lora=None if nested is None else _settings(nested, lora),
            targets=_targets(document.get("target_modules")),
            router_aux_loss_coef=float(document.get("router_aux_loss_coef", 1e-3)),
            base_model=str(document.get("base_model_name_or_path", "")),
            task_type=str(document.get("task_type", "CAUSAL_LM")),
            act_fn=document.get("act_fn"),
        )

    def to_json(self) -> dict[str, Any]:
        """The document that ``from_json`` and the package understand."""
        document: dict[str, Any] = {
            "bias": "none",
            "peft_type": _KIND,
            "task_type": self.task_type,
            "base_model_name_or_path": self.base_model,
            **_numbers(self.lora),
            "target_modules": list(self.targets),
            "routing_strategy": _ROUTING,
            "num_experts": self.num_experts,
            "top_k": self.top_k,
            "router_aux_loss_coef": self.router_aux_loss_coef,
        }
        if self.expert_lora is not None:
            document["expert_lora"] = _numbers(self.expert_lora)
        if self.act_fn is not None:
            document["act_fn"] = self.act_fn
        return document


def _settings(document: Mapping[str, Any], default: LoraSettings | None) -> LoraSettings:
    """LoRA settings of a document; a nested one may leave out what the outer one says."""
    if default is not None:
        document = _numbers(default) | dict(document)
    return LoraSettings(
        rank=_whole(document, "r"),
        alpha=_number(document, "lora_alpha"),
        dropout=_number(document, "lora_dropout"),
        rank_stabilised=bool(document.get("use_rslora", False)),
    )


def _numbers(settings: LoraSettings) -> dict[str, Any]:
    # The package insists on a whole alpha.
    alpha = int(settings.alpha) if float(settings.alpha).is_integer() else settings.alpha
    numbers: dict[str, Any] = {
        "r": settings.rank,
        "lora_alpha": alpha,
        "lora_dropout": settings.dropout,
    }
    if settings.rank_stabilised:
        numbers["use_rslora"] = True
    return numbers


def _number(document: Mapping[str, Any], key: str) -> float:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"adapter_config.json: {key} must be a number; got {value!r}")
    return value


def _whole(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"adapter_config.json: {key} must be a whole number; got {value!r}")
    return value


def _targets(listed: Any) -> tuple[str, ...]:
    """Names, from a list or from a mapping of names to whether they are meant."""
    if isinstance(listed, Mapping):
        listed = [name for name, meant in listed.items() if meant]
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"adapter_config.json: target_modules must name modules; got {listed!r}")
    return tuple(listed)
