"""The entry point: commands, and exceptions turned into exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from badexpert.version import VERSION

from . import (
    attack,
    bench,
    config,
    console,
    demo,
    detect,
    exits,
    experts,
    extract,
    inspect,
    moe,
    repair,
    scan,
    zoo,
)

log = logging.getLogger(__name__)

app = typer.Typer(
    help="Find out whether a model hides a backdoor, before it ships.",
    epilog=exits.HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    scan.scan,
    extract.extract,
    detect.detect,
    inspect.inspect,
    experts.experts,
    repair.repair,
    attack.attack,
    bench.bench,
    demo.demo,
)
for command in COMMANDS:
    app.command(epilog=exits.HELP)(command)
app.add_typer(config.app, name="config")
app.add_typer(moe.app, name="moe")
app.add_typer(zoo.app, name="zoo")


def _show_version(wanted: bool) -> None:
    if wanted:
        console.write_document(f"badexpert {VERSION}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code."""
    from badexpert.errors import BadExpertError

    console.configure()
    try:
        app(arguments, prog_name="badexpert")
    except SystemExit as stop:
        return _code(stop)
    except KeyboardInterrupt:
        return exits.ExitCode.INTERRUPTED
    except BadExpertError as error:
        log.error("%s", error)
        log.debug("raised here", exc_info=error)
        return exits.of_error(error)
    except OSError as error:
        log.error("the operating system refused: %s", error)
        log.debug("raised here", exc_info=error)
        return exits.of_error(error)
    except Exception as error:
        # Python's own handling would exit 1, which reads as "backdoored".
        log.error("internal error, %s: %s; --verbose shows where", type(error).__name__, error)
        log.debug("raised here", exc_info=error)
        return exits.of_error(error)
    return exits.ExitCode.OK


def _code(stop: SystemExit) -> int:
    if isinstance(stop.code, str):  # words of a library that gave up
        log.error("%s", stop.code)
        return exits.ExitCode.INCOMPLETE
    return stop.code or exits.ExitCode.OK
