"""A zip reader that trusts nothing: exact geometry, no checksums, hard budgets.

Zip parsers disagree about damaged archives, and an attack lives in the disagreement: one parser
shows a harmless member to the scanner, another shows a hostile one to the loader. So everything
that two parsers could read differently is refused: gaps, overlaps, doubled names, headers that
contradict the directory, bytes before, behind or between. Checksums are not looked at, because
torch does not look at them: a member whose checksum is wrong is still read and still judged.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from badexpert.errors import ModelLoadError

MAX_MEMBERS = 100_000
MAX_EXPANSION = 20
"""A compressed archive may grow this many times: trained weights shrink by less than a tenth."""
FREE_EXPANSION_BYTES = 256 << 20
"""Expansion up to this size is always harmless."""

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _STREAMED = 0x1, 0x8
_ZIP64 = 0xFFFFFFFF
_ENTRY_BYTES = 46 + 3 * 0xFFFF
"""The longest record that a directory can hold."""


@dataclass(frozen=True)
class Member:
    """One entry of the archive's directory.

    Attributes:
        start: offset of its first data byte in the file.
        stored_bytes: what it takes in the file.
        size: what it claims to take once decompressed.
    """

    name: str
    start: int
    stored_bytes: int
    size: int
    compressed: bool


class Archive:
    """The members of a zip file whose geometry is beyond doubt."""

    def __init__(self, data: mmap.mmap, members: tuple[Member, ...]) -> None:
        self._data = data
        self.members = members

    @property
    def compressed(self) -> bool:
        """Whether any member is, so that it cannot be mapped into memory as it stands."""
        return any(member.compressed for member in self.members)

    def read(self, member: Member, limit: int) -> bytes:
        """Bytes of a member, at most ``limit`` of them, whatever its checksum says.

        Raises:
            ModelLoadError: the compressed data is damaged, or longer than the directory claims.
        """
        if not member.compressed:
            return self._data[member.start : member.start + min(member.size, limit)]
        raw = self._data[member.start : member.start + member.stored_bytes]
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, min(limit, member.size + 1))
        except zlib.error as error:
            raise _refused(f"member {member.name!r} is damaged: {error}") from error
        if len(data) > member.size or (limit > member.size > len(data)):
            raise _refused(f"member {member.name!r} does not have the size that it claims")
        return data


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip file and check its geometry and its budgets.

    Raises:
        ModelLoadError: it is truncated, ambiguous, encrypted, or a decompression bomb.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        members = tuple(_Directory(data).members())
        _check_names(members)
        _check_expansion(members, len(data))
        yield Archive(data, members)


def _refused(reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"the zip archive is refused: {reason}. torch.save never writes such an archive; "
        "download it again, or re-save it as safetensors on a machine where you trust it"
    )


def _check_names(members: tuple[Member, ...]) -> None:
    seen: dict[str, str] = {}
    for member in members:
        # torch finds members without regard to case.
        folded = member.name.casefold()
        if folded in seen:
            raise _refused(f"members {seen[folded]!r} and {member.name!r} have the same name")
        seen[folded] = member.name
        if not member.name.isprintable() or "\\" in member.name:
            raise _refused(f"member {member.name!r} has a forbidden character in its name")
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise _refused(f"member {member.name!r} points outside the archive")


def _check_expansion(members: tuple[Member, ...], file_bytes: int) -> None:
    claimed = sum(member.size for member in members)
    budget = max(FREE_EXPANSION_BYTES, MAX_EXPANSION * file_bytes)
    if claimed > budget:
        raise _refused(
            f"a decompression bomb: {file_bytes:,} bytes would become {claimed:,}, "
            f"and {budget:,} are permitted"
        )


class _Directory:
    """Reads the central directory and holds every local header against it."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.count, self.size, self.start, self.end = self._locate()

    def _locate(self) -> tuple[int, int, int, int]:
        """Members, bytes and offset of the directory, and where the records behind it begin."""
        end = len(self.data) - 22
        if end < 0 or self.data[end : end + 4] != b"PK\x05\x06":
            raise _refused("it does not end with a zip directory, so it is truncated or extended")
        disks, first, here, count, size, start, comment = struct.unpack(
            "<4HIIH", self.data[end + 4 : end + 22]
        )
        if disks or first or comment or here != count:
            raise _refused("it spans several disks, or has a comment")
        if self.data[max(end - 20, 0) : max(end - 16, 0)] == b"PK\x06\x07":
            count, size, start, end = self._locate_zip64(end)
        if start + size != end:
            raise _refused(f"{end - start - size} unaccounted bytes stand around its directory")
        if count > MAX_MEMBERS:
            raise _refused(f"it has {count:,} members, and {MAX_MEMBERS:,} are permitted")
        return count, size, start, end

    def _locate_zip64(self, end: int) -> tuple[int, int, int, int]:
        (record,) = struct.unpack("<Q", self.data[end - 12 : end - 4])
        raw = self.data[record : record + 56]
        if raw[:4] != b"PK\x06\x06" or len(raw) != 56 or record + 56 != end - 20:
            raise _refused("its zip64 directory is not where it should be")
        count, size, start = struct.unpack("<3Q", raw[32:56])
        return count, size, start, record

    def members(self) -> Iterator[Member]:
        """Every member, in the order of the file, which they must tile without gap or overlap."""
        expected: tuple[int, ...] = (0,)
        for entry in sorted(self._entries(), key=lambda entry: entry.header):
            if entry.header not in expected:
                raise _refused(f"bytes stand before member {entry.name!r}, or members overlap")
            member = self._checked(entry)
            yield member
            expected = self._ends(member, entry.streamed)
        if self.start not in expected:
            raise _refused("unaccounted bytes stand before its directory, or members overlap")

    def _ends(self, member: Member, streamed: bool) -> tuple[int, ...]:
        """Where the next thing may begin; a streamed member repeats its sizes behind its data."""
        end = member.start + member.stored_bytes
        if not streamed:
            return (end,)
        if self.data[end : end + 4] != b"PK\x07\x08":
            raise _refused(f"member {member.name!r} lacks the sizes that should follow its data")
        return (end + 16, end + 24)

    def _entries(self) -> Iterator[_Entry]:
        position = self.start
        for _ in range(self.count):
            entry = _Entry.parse(self.data[position : min(position + _ENTRY_BYTES, self.end)])
            yield entry
            position += entry.length
        if position != self.end:
            raise _refused("its directory is not as long as it says")

    def _checked(self, entry: _Entry) -> Member:
        """The member, if the header in front of its data says the same as the directory."""
        local = self.data[entry.header : entry.header + 30]
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise _refused(f"member {entry.name!r} has no header")
        flags, method, stored, size, name_bytes, extra_bytes = struct.unpack("<HH8xIIHH", local[6:])
        start = entry.header + 30 + name_bytes + extra_bytes
        name = self.data[entry.header + 30 : entry.header + 30 + name_bytes]
        if (flags, method, name) != (entry.flags, entry.method, entry.raw_name):
            raise _refused(f"the header of member {entry.name!r} contradicts the directory")
        plain = (stored, size) == (entry.stored_bytes, entry.size)
        if not (plain or entry.streamed or _ZIP64 in (stored, size)):
            raise _refused(f"the sizes of member {entry.name!r} contradict the directory")
        if start + entry.stored_bytes > self.start:
            raise _refused(f"member {entry.name!r} reaches beyond its end")
        compressed = method == _DEFLATED
        return Member(entry.name, start, entry.stored_bytes, entry.size, compressed)


@dataclass(frozen=True)
class _Entry:
    """One record of the central directory."""

    raw_name: bytes
    flags: int
    method: int
    stored_bytes: int
    size: int
    header: int
    length: int

    @property
    def name(self) -> str:
        return self.raw_name.decode("utf-8", errors="backslashreplace")

    @property
    def streamed(self) -> bool:
        return bool(self.flags & _STREAMED)

    @classmethod
    def parse(cls, raw: bytes) -> _Entry:
        if len(raw) < 46 or raw[:4] != b"PK\x01\x02":
            raise _refused("its directory is damaged")
        flags, method, stored, size, name_bytes, extra_bytes, comment_bytes = struct.unpack(
            "<HH8xIIHHH", raw[8:34]
        )
        (header,) = struct.unpack("<I", raw[42:46])
        extra = raw[46 + name_bytes : 46 + name_bytes + extra_bytes]
        size, stored, header = _widened(extra, (size, stored, header))
        name = raw[46 : 46 + name_bytes]
        total = 46 + name_bytes + extra_bytes + comment_bytes
        entry = cls(name, flags, method, stored, size, header, total)
        if total > len(raw):
            raise _refused("its directory is damaged")
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            raise _refused(f"member {entry.name!r} is encrypted or packed with method {method}")
        if method == _STORED and stored != size:
            raise _refused(f"member {entry.name!r} is not compressed, yet claims two sizes")
        return entry


def _widened(extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """Replace 32-bit values that say "too large" by those of the zip64 field, in its order."""
    fields = dict(_extra_fields(extra))
    wide = fields.get(1, b"")
    result = []
    for value in values:
        if value == _ZIP64:
            if len(wide) < 8:
                raise _refused("its directory is damaged")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        result.append(value)
    return result[0], result[1], result[2]


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        yield kind, extra[4 : 4 + length]
        extra = extra[4 + length :]
