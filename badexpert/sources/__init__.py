"""Where images come from, one file a format.

To add one: a file here, a line in ``SOURCES``. The first format that accepts a specification
opens it.
"""

from __future__ import annotations

from pathlib import Path

from badexpert.errors import CleanSetError
from badexpert.sources.base import ImageSource, RawImage, SourceFormat, Unreadable
from badexpert.sources.digits import DIGITS
from badexpert.sources.folder import FOLDER
from badexpert.sources.listing import LISTING
from badexpert.sources.npz import NPZ
from badexpert.sources.parquet import PARQUET
from badexpert.sources.pixels import to_pixels
from badexpert.sources.single import SINGLE
from badexpert.sources.stream import Batch, NothingReadableError, stream
from badexpert.sources.torchvision_datasets import TORCHVISION

SOURCES: dict[str, SourceFormat] = {
    "digits": DIGITS,
    "torchvision": TORCHVISION,
    "parquet": PARQUET,
    "folder": FOLDER,
    "npz": NPZ,
    "single": SINGLE,
    "listing": LISTING,
}


def open_source(spec: str | Path, *, root: str | Path | None = None) -> ImageSource:
    """Open whatever a user points at; what it is, its content decides.

    Args:
        spec: a path, or a name such as ``sklearn:digits``; the forms stand in ``SOURCES``.
        root: folder of a torchvision data set, if the specification does not name it.
    Raises:
        CleanSetError: nothing is there, or no format knows it.
    """
    text = str(spec)
    try:
        source_format = next((entry for entry in SOURCES.values() if entry.accepts(text)), None)
        if source_format is None:
            raise _unknown(text)
        if root is not None and not source_format.takes_root:
            raise CleanSetError(f"{text} takes no root folder; got root={root}. Leave it out")
        return source_format.open(text, None if root is None else Path(root))
    except OSError as error:
        raise CleanSetError(
            f"{text} cannot be opened: {error.strerror or error}. Check path and permissions"
        ) from error


def _unknown(spec: str) -> CleanSetError:
    forms = "; ".join(entry.form for entry in SOURCES.values())
    if not Path(spec).exists():
        return CleanSetError(f"{spec} does not exist. Give one of: {forms}")
    return CleanSetError(f"{spec} is of no known format. Give one of: {forms}")


__all__ = [
    "SOURCES",
    "Batch",
    "ImageSource",
    "NothingReadableError",
    "RawImage",
    "SourceFormat",
    "Unreadable",
    "open_source",
    "stream",
    "to_pixels",
]
