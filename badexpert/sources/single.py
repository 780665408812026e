"""One image file by itself, so that a single input can be asked about."""

from __future__ import annotations

from pathlib import Path

from badexpert.sources.base import ImageSource, SourceFormat
from badexpert.sources.decoding import looks_like_image
from badexpert.sources.files import FileSource


def open_single(spec: str, root: Path | None) -> ImageSource:
    """A source of one image."""
    path = Path(spec)
    return FileSource(spec, path.parent, [path.name])


SINGLE = SourceFormat(
    accepts=lambda spec: Path(spec).is_file() and looks_like_image(Path(spec)),
    open=open_single,
    form="one image file",
)
