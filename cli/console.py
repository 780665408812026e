"""The terminal: the document goes to stdout, all else to stderr."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from badexpert.runtime import Step

logger = logging.getLogger("badexpert")
log = logging.getLogger(__name__)


def configure(*, quiet: bool = False, verbose: bool = False) -> None:
    """Send the library's log to stderr: warnings when quiet, everything when verbose."""
    for name in ("badexpert", __name__.partition(".")[0]):
        target = logging.getLogger(name)
        target.handlers = [_StderrHandler()]
        target.propagate = False
        target.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


class _StderrHandler(logging.Handler):
    """Through rich, so that a line and a progress bar do not overwrite each other."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = printable(level + self.format(record))
        stderr().print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


@cache
def stderr() -> Console:
    """The one console on stderr."""
    from rich.console import Console

    return Console(stderr=True)


def printable(text: str) -> str:
    """The text without characters that command a terminal; names in hostile files may hold some."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1]
        for character in text
    )


def write_document(text: str) -> None:
    """Write the whole document to stdout; a reader that leaves early is no error.

    Raises:
        ConfigError: there is no stdout.
    """
    if sys.stdout is None:  # the caller closed it: >&-
        from badexpert.errors import ConfigError

        raise ConfigError("stdout is closed, so the document has no place; name a file with -o")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shows_bars() -> bool:
    """Whether a progress bar helps: somebody watches, and nobody asked for silence."""
    return stderr().is_terminal and not os.environ.get("CI") and logger.isEnabledFor(logging.INFO)


@contextmanager
def progress() -> Iterator[Callable[[Step], None]]:
    """A callback for ``RunContext.progress``: bars on a terminal, else one line a task."""
    if not shows_bars():
        from badexpert.runtime import EachTask

        yield EachTask(lambda task: log.info("%s", task))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=stderr(), transient=True) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar a task."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, step: Step) -> None:
        if step.task not in self.tasks:
            self.tasks[step.task] = self.bars.add_task(printable(step.task), note="")
        self.bars.update(
            self.tasks[step.task],
            completed=step.done,
            total=step.total,
            note=printable(step.note),
        )
