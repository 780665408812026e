"""How every command starts: terminal, configuration, run context."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.runtime import RunContext
    from badexpert.settings import Resolved


def start(
    flags: Mapping[str, Any], *, file: Path | None, quiet: bool = False, verbose: bool = False
) -> Resolved:
    """Open the log and resolve the configuration.

    Raises:
        ConfigError: see ``badexpert.settings.resolve``.
    """
    from badexpert.settings import resolve

    console.configure(quiet=quiet, verbose=verbose)
    return resolve(flags, environment=os.environ, folder=Path.cwd(), file=file)


@contextmanager
def running(config: ScanConfig) -> Iterator[RunContext]:
    """A run context whose progress shows on stderr."""
    from badexpert.runtime import RunContext, resolve_device

    with console.progress() as progress:
        yield RunContext(resolve_device(config.device), config.seed, progress)


def required(value: str | None, what: str, key: str) -> str:
    """The value of a setting without a default.

    Raises:
        ConfigError: nobody gave it.
    """
    from badexpert.errors import ConfigError

    if value is None:
        raise ConfigError(f"{what} is missing; give it on the command line, or set {key}")
    return value
