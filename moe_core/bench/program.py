"""What surrounds a benchmark that is run as a program."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import NoReturn

STOPPED, REFUSED = 130, 3
"""Exit codes: it was interrupted; what it was given cannot be measured."""


def run(main: Callable[[], int | None], *refusals: type[Exception]) -> NoReturn:
    """Run a program and exit. What it logs goes to stderr; so does an error, as a sentence.

    Args:
        refusals: exceptions beside ``OSError`` whose words are meant for users.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    known: tuple[type[Exception], ...] = (OSError, *refusals)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except known as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(REFUSED)
