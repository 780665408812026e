"""Language models from untrusted folders: moe_core's own, and those of transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from badexpert.errors import ModelLoadError
from badexpert.loading import hub
from badexpert.loading.adapters import apply_adapter
from badexpert.loading.checkpoint import check_finite, read_checkpoint
from badexpert.loading.files import ModelFiles, confined, find_files, read_json
from badexpert.loading.sniff import FileFormat, refuse, sniff
from badexpert.loading.transformers_models import build_module
from badexpert.models.backbones import Backbone, DecoderBackbone, TransformersBackbone
from badexpert.models.codec import TOKENIZER, open_codec
from badexpert.models.language import LanguageModel
from badexpert.models.origin import Origin, count_parameters, digest_file, digest_together
from moe_core.lm.folder import OWN, load_decoder

CONFIG = "config.json"
GENERATION = "generation_config.json"
_HEADS = ("ForCausalLM", "LMHeadModel", "ForSequenceClassification")


def is_language_model(source: str | Path) -> bool:
    """Whether a path is a folder of a language model, or a file in the format of such."""
    path = local_folder(source)
    if path.is_file():
        return sniff(path) is FileFormat.GGUF
    if not (path / CONFIG).is_file():
        return False
    document = read_json(confined(path, CONFIG))
    return document.get("model_type") == OWN or any(
        name.endswith(_HEADS) for name in _architectures(document)
    )


def local_folder(source: str | Path) -> Path:
    """Where the files of a model are; one on the hub is fetched if it is not in the cache."""
    text = str(source)
    return hub.fetch(text) if text.startswith(hub.PREFIX) else Path(source)


def load_language_model(
    source: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> LanguageModel:
    """Load a language model or a classifier of texts. No code in or beside the files is run.

    Args:
        source: a folder as transformers or ``moe_core`` writes it, or ``hf:ORG/NAME@REVISION``.
        adapter: folder of a LoRA or MixLoRA adapter that is put on the model.
        device: where to put the weights; they keep the type that the files have.
    Raises:
        UnsafeModelError: the configuration asks for code of its own to be run, or the weights are
            a pickle that does.
        ModelLoadError: refused, damaged, or of an unknown kind.
    """
    text, path = str(source), local_folder(source)
    if path.is_file():
        if (kind := sniff(path)) is FileFormat.GGUF:
            raise refuse(path, kind)
        raise ModelLoadError(
            f"{path} is a file; give the folder of the language model, with its {CONFIG} and "
            "tokenizer.json"
        )
    files = find_files(path)
    if files.config is None:
        raise ModelLoadError(f"{path} has no {CONFIG}; give the whole folder of the model")
    backbone, architecture, stored_dtype = _backbone(path, files, files.config)
    beside = [path / name for name in (CONFIG, TOKENIZER)]
    read = [*files.weights, *(file for file in beside if file.is_file())]
    if adapter is not None:
        read += apply_adapter(backbone.module, Path(adapter))
    backbone.eval().requires_grad_(False)
    digests = tuple(digest_file(file) for file in read)
    origin = Origin(
        source=text,
        sha256=digest_together(digests),
        files=digests,
        format=sniff(files.weights[0]).value,
        architecture=architecture,
        parameters=count_parameters(backbone),
        stored_dtype=stored_dtype,
        arch_args={} if adapter is None else {"adapter": str(adapter)},
    )
    return LanguageModel(
        backbone.to(device),
        open_codec(path, backbone.vocab_size),
        origin,
        end_tokens=_end_tokens(path, files.config),
        class_names=_class_names(backbone, files.config),
    )


def _backbone(
    path: Path, files: ModelFiles, document: Mapping[str, Any]
) -> tuple[Backbone, str, str]:
    """The network, what to call its architecture, and the type of its stored numbers."""
    tensors = read_checkpoint(files).tensors
    check_finite(tensors)
    if document.get("model_type") == OWN:
        try:
            return DecoderBackbone(load_decoder(path)), OWN, _usual_dtype(tensors)
        except (ValueError, OSError) as error:
            raise ModelLoadError(f"{path} holds no model of moe_core: {error}") from error
    names = _architectures(document)
    head = next((name for name in names if name.endswith(_HEADS)), None)
    if head is None:
        raise ModelLoadError(
            f"{path}: {CONFIG} names the architectures {', '.join(names) or 'none'}; a language "
            f"model's ends in one of {', '.join(_HEADS)}. Export the model with its head"
        )
    dtype = _usual_dtype(tensors)
    module: nn.Module = build_module(document, head, tensors, getattr(torch, dtype))
    return TransformersBackbone(module), f"transformers:{type(module).__name__}", dtype


def _architectures(document: Mapping[str, Any]) -> list[str]:
    names = document.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _usual_dtype(tensors: Mapping[str, Tensor]) -> str:
    """The floating type of most of the stored numbers."""
    weights: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            weights[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    if not weights:
        raise ModelLoadError("the files hold no floating-point weights; give the model unquantised")
    return weights.most_common(1)[0][0]


def _end_tokens(path: Path, document: Mapping[str, Any]) -> frozenset[int]:
    """Which tokens end a response."""
    named = document.get("eos_token_id")
    if (path / GENERATION).is_file():
        named = read_json(confined(path, GENERATION)).get("eos_token_id", named)
    tokens = named if isinstance(named, list) else [named]
    return frozenset(token for token in tokens if isinstance(token, int))


def _class_names(backbone: Backbone, document: Mapping[str, Any]) -> tuple[str, ...]:
    if isinstance(backbone, DecoderBackbone):
        return tuple(backbone.module.config.classes)
    names = document.get("id2label")
    if not isinstance(names, Mapping) or len(names) != backbone.num_classes:
        return ()
    ordered = tuple(str(names.get(str(index), "")) for index in range(len(names)))
    made_up = all(name == f"LABEL_{index}" for index, name in enumerate(ordered))
    return () if made_up or "" in ordered else ordered
