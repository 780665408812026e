"""Names chosen by patterns of the user."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from badexpert.errors import ConfigError


def matching(names: Sequence[str], patterns: Sequence[str], *, where: str) -> frozenset[str]:
    """The names that match at least one pattern; all of them if there is no pattern.

    Args:
        patterns: such as ``cifar10-*-s0*``.
        where: the names come from; for the error.
    Raises:
        ConfigError: none matches.
    """
    chosen = frozenset(
        name
        for name in names
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    )
    if not chosen:
        raise ConfigError(
            f"no model of {where} matches {', '.join(patterns) or 'anything'}; it has "
            f"{len(names)}, such as {names[0] if names else 'none'}"
        )
    return chosen
