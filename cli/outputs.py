"""Where documents go: parsed and tried before the long work, written in one piece after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from badexpert.errors import ConfigError

from . import console


@dataclass(frozen=True)
class Target:
    """One document to write.

    Attributes:
        path: None means stdout.
    """

    format: str
    path: Path | None = None


def parse_targets(
    formats: Sequence[str], output: Path | None, known: Collection[str]
) -> tuple[Target, ...]:
    """Read ``NAME`` and ``NAME=PATH`` values of ``--format`` together with ``-o``.

    Raises:
        ConfigError: an unknown format, more than one document for the same place, or a place that
            cannot be written to.
    """
    targets = tuple(_parse(value, output, known) for value in formats)
    if output is not None and not any(target.path == output for target in targets):
        raise ConfigError(f"-o {output} has no document: every --format names its own file")
    places = [target.path for target in targets]
    for place in places:
        if places.count(place) > 1:
            shown = "stdout" if place is None else str(place)
            raise ConfigError(f"{shown} can take one document only; say --format NAME=PATH")
        if place is not None:
            require_writable(place)
    return targets


def _parse(value: str, output: Path | None, known: Collection[str]) -> Target:
    name, separator, path = value.partition("=")
    if name not in known:
        raise ConfigError(f"format {name!r} is unknown; this command knows {', '.join(known)}")
    if separator and not path:
        raise ConfigError(f"--format {value} names no file; say {name}=PATH")
    return Target(name, Path(path) if separator else output)


def require_writable(path: Path) -> None:
    """Try now whether a file can be made there, rather than after hours of work.

    Raises:
        ConfigError: it cannot.
    """
    if path.is_dir():
        raise ConfigError(f"output {path} is a folder; name a file")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ConfigError(f"output {path} cannot be written: {error.strerror}") from error


def deliver(targets: Sequence[Target], render: Callable[[Target], str]) -> None:
    """Write every document: each appears whole or not at all."""
    for target in targets:
        text = render(target)
        if target.path is None:
            console.write_document(text)
        else:
            write_atomically(target.path, text)


def write_atomically(path: Path, text: str) -> None:
    """Replace the file in one step."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    """The process's umask; temporary files ignore it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``path`` only when the block ends well.

    Raises:
        ConfigError: ``path`` exists and is not an empty folder, or cannot be made.
    """
    require_new_folder(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as parent:
        inner = Path(parent) / path.name
        inner.mkdir()
        yield inner
        inner.replace(path)


def require_new_folder(path: Path) -> None:
    """Try now whether a folder can be made there.

    Raises:
        ConfigError: it cannot.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"output {path} exists already; remove it, or choose another -o")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ConfigError(f"output {path} cannot be written: {error.strerror}") from error


def require_folder(path: Path) -> None:
    """Make a folder that may be there already, and try now whether it takes files.

    Raises:
        ConfigError: it cannot be made, or takes none.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"folder {path} cannot be written: {error.strerror}") from error
