"""A decoder that was trained here, as a base and an adapter that the package ``mixlora`` joins."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from moe_core.experts.lora import LoraFFNExperts
from moe_core.lm.carry import carry_over
from moe_core.lm.decoder import Decoder
from moe_core.lm.folder import export_decoder
from moe_core.lm.huggingface import NotExportableError, kind_of
from moe_core.lora import LoraSettings
from moe_core.mixlora.adapter import MixLoraAdapter, save_adapter
from moe_core.mixlora.attach import adapter_of
from moe_core.mixlora.config import ATTENTION, FFN, MixLoraConfig
from moe_core.routers.mixlora import MixLoraRouter

ADAPTER_FOLDER, BASE_FOLDER = "adapter", "base"


def export_adapter(model: Decoder, base: Decoder | None, out: Path) -> None:
    """Write the dense model, which transformers opens as Llama, and the adapter on it.

    The adapter names its base as ``out`` is spelt: relative to where the package is run.

    Args:
        model: of which every layer has low-rank experts behind MixLoRA's router.
        base: the frozen model; None if there was none.
    Raises:
        NotExportableError: it says what has no place in such files.
    """
    if base is None:
        raise NotExportableError("the adapter stands on no model of an earlier stage")
    adapter = adapter_on(base, model, str(out / BASE_FOLDER))
    export_decoder(base, out / BASE_FOLDER)
    save_adapter(adapter, out / ADAPTER_FOLDER)


def adapter_on(base: Decoder, model: Decoder, name: str) -> MixLoraAdapter:
    """All that a model has beyond the dense one under it.

    Args:
        base: on the CPU, as it was before the adapter was trained.
        model: of which every layer has low-rank experts behind MixLoRA's router.
        name: of the base, for the adapter's settings.
    Raises:
        NotExportableError: it says what has no place in an adapter, or that the model differs from
            its base elsewhere.
    """
    if kind_of(base) != "llama":
        raise NotExportableError("the model under the adapter is not dense")
    adapter = adapter_of(model, _config(model, name))
    if changed := _changed(base, model):
        raise NotExportableError(
            f"more was trained than the adapter, {changed} among it; set train = 'new'"
        )
    return adapter


def _changed(base: Decoder, model: Decoder) -> str | None:
    """A tensor that an adapter does not hold and that is not the base's."""
    plain = deepcopy(model).cpu()
    carried = carry_over(base, plain)
    own, bases = model.state_dict(), plain.state_dict()
    return next((name for name in sorted(carried) if not own[name].cpu().equal(bases[name])), None)


def _config(model: Decoder, base: str) -> MixLoraConfig:
    config, [first, *others] = model.config, model.moe_layers()
    if config.classes:
        raise NotExportableError("an adapter cannot hold the head of a classifier")
    if config.other_ffn or len(others) + 1 != config.num_layers or first.shared is not None:
        raise NotExportableError("layers that differ, or have a shared network, fit no adapter")
    if not isinstance(first.router, MixLoraRouter) or not isinstance(first.experts, LoraFFNExperts):
        raise NotExportableError("only low-rank experts behind the router 'mixlora' are known")
    return MixLoraConfig(
        num_experts=first.num_experts,
        top_k=first.top_k,
        lora=_settings(config.ffn.expert_options, config.attention_lora),
        targets=FFN if config.attention_lora is None else ATTENTION + FFN,
        router_aux_loss_coef=first.router.balance_coef,
        base_model=base,
        act_fn="silu",  # left out, it means the model's own; the package then has none
    )


def _settings(experts: Mapping[str, Any], attention: LoraSettings | None) -> LoraSettings:
    """What the package can compute with: it knows one rank and scale, and asserts the rest."""
    lora = LoraSettings(**experts)
    if attention not in (None, lora):
        raise NotExportableError(
            f"the package has one setting for attention and experts; got {attention} and {lora}"
        )
    if lora.dropout == 0 or lora.alpha != int(lora.alpha):
        raise NotExportableError(
            f"the package needs dropout above 0, and a whole alpha; got {lora}"
        )
    return lora
