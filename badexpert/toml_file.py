"""TOML files that a user names: read whole, checked, with errors that say which file and why."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from badexpert.errors import ConfigError

_Kind = TypeVar("_Kind")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table that a file holds.

    Args:
        what: the file is, for errors, such as ``recipe``.
    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} is not TOML: {error}") from error


def checked(kind: type[_Kind], table: Mapping[str, Any], where: str) -> _Kind:
    """A dataclass from the table of a file; also those within it take no unknown key.

    Raises:
        ConfigError: with the place of everything that is wrong.
    """
    # A list passes the configuration on to plain dataclasses; on its own, one takes none.
    adapter = TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))  # type: ignore[valid-type]
    try:
        [read] = adapter.validate_python([table])
    except ValidationError as error:
        problems = [
            ": ".join(filter(None, (".".join(map(str, problem["loc"][1:])), _told(problem))))
            for problem in error.errors()
        ]
        raise ConfigError(f"{where}: {'; '.join(problems)}") from error
    return read


def _told(problem: Mapping[str, Any]) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    # What a dataclass says of its own values tells what it got.
    return message if "; got" in message else f"{message}; got {str(problem['input'])[:80]!r}"


def require_known(name: str, known: Mapping[str, object], what: str, where: str) -> None:
    """Names that one table of a file has of another must stand there.

    Raises:
        ConfigError: this one does not.
    """
    if name not in known:
        raise ConfigError(f"{where}: {what} {name!r} is unknown; there are {', '.join(known)}")
