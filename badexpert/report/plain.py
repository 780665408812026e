"""Report types as plain data that ``json.dumps`` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from pathlib import Path

from badexpert.findings import Json, Severity


def plain(value: Json) -> Json:
    """The value in dicts, lists, strings, numbers, booleans and None.

    A float that JSON has no word for becomes the string ``nan``, ``inf`` or ``-inf``.

    Raises:
        TypeError: a type that has no plain form.
    """
    match value:
        case Severity():
            return value.name.lower()
        case Enum():
            return value.value
        case None | bool() | int():
            return value
        case str():
            # A file name that is not UTF-8 arrives with surrogates, which no encoder takes.
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case float():
            return value if math.isfinite(value) else str(value)
        case Path():
            return value.as_posix()
        case date():
            return value.isoformat()
        case Mapping():
            return {plain(str(key)): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    raise TypeError(f"{type(value).__name__} has no place in a report: {value!r}")
