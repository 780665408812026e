"""A repaired model as a folder, in the form that the suspect came in, read back and compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from badexpert.errors import AuditError
from badexpert.loading.files import confined
from badexpert.loading.language import GENERATION, load_language_model, local_folder
from badexpert.loading.transformers_models import quiet
from badexpert.models.codec import import_transformers
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.repairing.measured import Trial
from moe_core.lm.decoder import Decoder
from moe_core.lm.folder import save_decoder

SHARD = "5GB"
"""Larger models are written as several files."""

TOLERANCE = 1e-3
"""Of scores that two passes through the same weights give."""

BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    GENERATION,
)
"""What belongs to a model beside its weights and its configuration; no code does."""


class Written(NamedTuple):
    """A folder that was read again.

    Attributes:
        sha256: of its files, as reports about it will have it.
        difference: between the scores of the model in memory and of that in the folder, the largest
            for any class of any text.
    """

    sha256: str
    difference: float


def write_verified(suspect: TextSuspect, folder: Path, trial: Trial) -> Written:
    """Write a model, open it again as anybody would, and compare the answers to some texts.

    Args:
        suspect: with the origin of the folder whose tokenizer it needs.
        folder: is there, and empty.
    Raises:
        AuditError: the answers differ.
        ModelLoadError: what was written cannot be read.
        ValueError: the folder is not empty.
    """
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    module: Any = suspect.module
    if isinstance(module, Decoder):
        save_decoder(module, folder)
    else:
        with quiet(import_transformers()):
            module.save_pretrained(folder, max_shard_size=SHARD)
        (folder / GENERATION).unlink(missing_ok=True)  # made up when the suspect was loaded
    _copy_beside(local_folder(suspect.origin.source), folder)
    model = load_language_model(folder, device=suspect.device)
    written = trial.answers(suspect_of(model, suspect.preprocessing))
    expected = trial.answers(suspect)
    difference = (written - expected).abs().max().item()
    if not torch.allclose(written, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise AuditError(
            f"the model that was written answers otherwise than the repaired one in memory: scores "
            f"differ by up to {difference:.3g}. Nothing was kept; please report the architecture, "
            f"{suspect.origin.architecture}"
        )
    return Written(model.origin.sha256, difference)


def _copy_beside(source: Path, folder: Path) -> None:
    for name in BESIDE:
        if (source / name).exists():
            shutil.copyfile(confined(source, name), folder / name)
