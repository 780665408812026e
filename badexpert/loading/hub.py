"""``hf:ORG/NAME@REVISION``: the data files of a model on the Hugging Face hub, and no code."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from badexpert.errors import ModelLoadError

PREFIX = "hf:"
_PATTERNS = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""No pickle and no code is ever fetched."""
_REFERENCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def fetch(source: str) -> Path:
    """The local folder of a model on the hub, fetched if it is not in the cache.

    Args:
        source: ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``.
    Raises:
        ModelLoadError: malformed, not found, or neither cached nor reachable.
    """
    match = _REFERENCE.fullmatch(source.removeprefix(PREFIX))
    if match is None:
        raise ModelLoadError(f"{source!r} is not understood; write hf:ORG/NAME@REVISION")
    try:
        folder = _snapshot(match["repository"], match["revision"])
    except LocalEntryNotFoundError as error:
        raise ModelLoadError(
            f"{source} is not in the local cache and the hub cannot be reached. Fetch it on a "
            "machine with a network, or give the path of a downloaded folder"
        ) from error
    # Errors of the network are those of an HTTP library, another one in each version of the hub's.
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        raise ModelLoadError(
            f"{source} cannot be fetched: {said.splitlines()[0][:300]}. "
            "Check organisation, name and revision, and whether a token is needed"
        ) from error
    path = Path(folder)
    if not any(path.rglob("*.safetensors")):
        raise ModelLoadError(
            f"{source} has no safetensors, and nothing else is fetched from the hub. "
            "Use a revision with safetensors, or download the file and give its path"
        )
    return path


def _snapshot(repository: str, revision: str | None) -> str:
    ask = partial(snapshot_download, repository, revision=revision, allow_patterns=list(_PATTERNS))
    try:
        return ask()
    except OfflineModeIsEnabled:
        # Some versions ask the hub for the files of a commit although it is in the cache.
        return ask(local_files_only=True)
