"""Lists the members of a zip from its central directory, and unpacks one member.

This is Python code that checks each length before it uses it. The only library that sees the bytes is zlib,
for deflated members, and it gets a limit for what it may produce. So no separate process is needed.

A member's place in the plan is its whole region: the local header, the stored bytes and what follows them.
The local header has a name and an extra field of any length, so only reading it tells where the bytes begin.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.storage.archives.limits import MOST_MEMBERS, MOST_RATIO, RATIO_FROM
from pipeline.storage.archives.problems import DamagedArchiveError, too_large, undecodable
from pipeline.storage.archives.window import Window

_END = struct.Struct("<4s4H2IH")
_END64_PLACE = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_END_MARK = b"PK\x05\x06"
_SIGNATURE_MARK = b"PK\x05\x05"
_MOST_COMMENT = 65_535
_DESCRIPTOR = 24
"""Bytes that may follow a member: signature, CRC-32 and two sizes."""
_MOST_LOCAL = _LOCAL.size + 2 * 65_535
_ENCRYPTED = 0x2041  # encrypted, strongly encrypted, masked headers
_LATER_SIZES = 0x8
METHODS = {0: "stored", 8: "deflated"}
"""Compression in the plan."""
_METHOD_NAMES = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 99: "AES"}
_WHOLE = 0xFFFFFFFF
_LEAST_STORED = 2**16
"""Bytes that Deflate may take for a member of any size."""


class ZipMember(NamedTuple):
    """A file in a zip."""

    name: bytes
    offset: int
    """First byte of the local header."""
    stored: int
    """Bytes as stored."""
    size: int
    """Bytes unpacked."""
    compression: str
    problem: str | None


class Directory(NamedTuple):
    """Where the central directory lies."""

    offset: int
    size: int
    members: int
    """Number of members. Zips without zip64 have its lowest 16 bits."""
    shift: int
    """Bytes before the first member, as in archives that unpack themselves."""


def find_directory(window: Window) -> Directory:
    """Find the central directory.

    Raises:
        DamagedArchiveError: there is none, or the archive has several parts.
        StorageError: a part cannot be read.
    """
    tail_at = max(0, window.size - _MOST_COMMENT - _END.size - _END64_PLACE.size)
    tail = window.read(tail_at, window.size - tail_at)
    at = _end_record(tail)
    if at < 0:
        raise DamagedArchiveError(
            window.size, "is no zip, or is cut: it has no central directory at its end"
        )
    _, disk, first_disk, _, members, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    if at >= _END64_PLACE.size and tail[at - _END64_PLACE.size :][:4] == b"PK\x06\x07":
        _, _, place, _ = _END64_PLACE.unpack_from(tail, at - _END64_PLACE.size)
        found = _find_end64(window, place, end - _END64_PLACE.size - _END64.size)
        if found is not None:
            end, members, size, offset = found
            disk = first_disk = 0
    if disk or first_disk:
        raise DamagedArchiveError(end, "is one part of several")
    shift = end - size - offset
    if shift < 0 or offset + shift < 0:
        raise DamagedArchiveError(end, "names a central directory outside of itself")
    return Directory(offset + shift, size, members, shift)


def _end_record(tail: bytes) -> int:
    """Return where the end record begins; -1: there is none.

    A comment may hold the mark of an end record too, so the record whose comment ends the file is preferred.
    Bytes after the archive are allowed.
    """
    found, at = -1, len(tail)
    while (at := tail.rfind(_END_MARK, 0, at)) >= 0:
        if at + _END.size <= len(tail):
            *_, comment = _END.unpack_from(tail, at)
            if at + _END.size + comment == len(tail):
                return at
            found = max(found, at)
    return found


def _find_end64(window: Window, place: int, beside: int) -> tuple[int, int, int, int] | None:
    """Return place, members, size and offset of a zip64 directory. Data before the archive shifts it."""
    for at in (place, beside):
        data = window.read(at, _END64.size) if 0 <= at < window.size else b""
        if data[:4] == b"PK\x06\x06" and len(data) == _END64.size:
            *_, members, size, offset = _END64.unpack(data)
            return at, members, size, offset
    return None


def iter_zip(window: Window, directory: Directory) -> Iterator[ZipMember]:
    """Yield the files of a zip, in the order of the directory. Folders are left out.

    Raises:
        DamagedArchiveError: the directory is damaged. What was yielded lies before the damage.
    """
    at, end, count = directory.offset, directory.offset + directory.size, 0
    while at < end:
        head = window.read(at, _ENTRY.size)
        if head[:4] == _SIGNATURE_MARK:
            break
        if count == MOST_MEMBERS:
            raise DamagedArchiveError(at, f"has more than {MOST_MEMBERS} members")
        if at + _ENTRY.size > end or len(head) < _ENTRY.size or head[:4] != b"PK\x01\x02":
            raise DamagedArchiveError(at, "has a damaged central directory")
        fields = _ENTRY.unpack(head)
        flags, method, stored, size, name_size, extra_size, note = (
            fields[3], fields[4], fields[8], fields[9], fields[10], fields[11], fields[12]
        )  # fmt: skip
        rest = window.read(at + _ENTRY.size, name_size + extra_size)
        at += _ENTRY.size + name_size + extra_size + note
        if at > end or len(rest) < name_size + extra_size:
            raise DamagedArchiveError(at, "has a damaged central directory")
        name, offset = rest[:name_size], fields[16]
        if _WHOLE in (stored, size, offset):
            sizes = _zip64(rest[name_size:], (size, stored, offset))
            if sizes is None:
                raise DamagedArchiveError(at, f"lacks the size of a member of 4 GB ({name!r})")
            size, stored, offset = sizes
        count += 1
        if name and not name.endswith((b"/", b"\\")):
            problem = _problem(flags, method, stored, size)
            yield ZipMember(
                name, offset + directory.shift, stored, size, METHODS.get(method, "other"), problem
            )
    if count & 0xFFFF != directory.members & 0xFFFF:
        cause = f"has {count} members in its directory, and {directory.members} in its end record"
        raise DamagedArchiveError(end, cause)


def _zip64(extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Return size, stored size and offset, of which the extra field has those that are 2**32 - 1."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            field, found = extra[at + 4 : at + 4 + length], []
            for value in values:
                if value == _WHOLE:
                    if len(field) < 8:
                        return None
                    value, field = int.from_bytes(field[:8], "little"), field[8:]
                found.append(value)
            return found[0], found[1], found[2]
        at += 4 + length
    return None


def _problem(flags: int, method: int, stored: int, size: int) -> str | None:
    if flags & _ENCRYPTED:
        return undecodable("the member is encrypted")
    if method not in METHODS:
        name = _METHOD_NAMES.get(method, f"method {method}")
        return undecodable(f"the member is compressed with {name}; only Deflate is read")
    if method == 0 and stored != size:
        return undecodable("the member is stored, but its two sizes differ")
    if stored > 2 * size + _LEAST_STORED:
        return undecodable(f"the member is stored in {stored} bytes, but unpacks to {size}")
    if size > RATIO_FROM and size > MOST_RATIO * stored:
        return too_large(
            f"the member unpacks {stored} bytes to {size}, more than {MOST_RATIO} times as many"
        )
    return None


class Regions:
    """The places of all members of a zip: where each ends, and which overlap. 16 bytes a member."""

    def __init__(self, directory: Directory) -> None:
        self._end = directory.offset
        self._starts, self._least = array("q"), array("q")

    def add(self, member: ZipMember) -> None:
        """Add the next member."""
        # Offsets come from the file: what is no place in it is kept as one behind the end.
        start = member.offset if 0 <= member.offset < 2**62 else 2**62
        self._starts.append(start)
        self._least.append(min(start + _LOCAL.size + len(member.name) + member.stored, 2**62))

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the bytes (N,) int64 to read for each member. 0: it overlaps another or ends outside."""
        starts, least = (np.frombuffer(a, np.int64) for a in (self._starts, self._least))
        order = np.argsort(starts, kind="stable")
        sorted_starts, sorted_least = starts[order], least[order]
        following = np.minimum(np.append(sorted_starts[1:], self._end), self._end)
        farthest = np.maximum.accumulate(np.append(0, sorted_least[:-1]))
        overlaps = (sorted_least > following) | (sorted_starts < farthest)
        # Where the space to the next member is larger than a member can be, other bytes lie between.
        most = sorted_least - sorted_starts + _MOST_LOCAL + _DESCRIPTOR
        found = np.empty(len(starts), np.int64)
        found[order] = np.where(overlaps, 0, np.minimum(following - sorted_starts, most))
        return found


def unpack(region: bytes, name: bytes | None, size: int, compression: str) -> bytes:
    """Unpack one member, and check its CRC-32.

    Args:
        region: the bytes from its local header on.
        name: its name, which the local header must have too; None checks no name.
        size: its bytes unpacked, of the central directory. No more are made.
        compression: of the plan.

    Raises:
        ValueError: the member is damaged; the message says how.
    """
    if len(region) < _LOCAL.size or region[:4] != b"PK\x03\x04":
        raise ValueError("the zip has no header where the directory says")
    _, _, flags, method, _, _, crc, stored, _, name_size, extra_size = _LOCAL.unpack_from(region)
    begin = _LOCAL.size + name_size + extra_size
    if METHODS.get(method) != compression:
        raise ValueError("header and directory of the zip name different compressions")
    if name is not None and region[_LOCAL.size :][:name_size] != name:
        raise ValueError("header and directory of the zip have different names")
    if flags & 1:
        raise ValueError("the member is encrypted")
    if compression == "stored":
        data, end = region[begin : begin + size], begin + size
        if len(data) < size:
            raise ValueError(f"the zip is cut: only {len(data)} of {size} bytes follow")
    else:
        data, end = _inflate(region, begin, size)
    sums = {crc}
    if flags & _LATER_SIZES:  # some programs write it into both places
        after = region[end : end + 8]
        later = after[4:8] if after[:4] == b"PK\x07\x08" else after[:4]
        sums.add(int.from_bytes(later, "little"))
    if zlib.crc32(data) not in sums:
        raise ValueError("the CRC-32 of the member is wrong: its bytes are damaged")
    return data


def _inflate(region: bytes, begin: int, size: int) -> tuple[bytes, int]:
    """Return the bytes of a deflated member and where its stored bytes end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(region[begin:], size + 1)
    except zlib.error as error:
        raise ValueError(f"the member cannot be unpacked ({error})") from error
    if len(data) != size or not inflater.eof:
        more = "more" if len(data) > size or not inflater.eof else "fewer"
        if inflater.unconsumed_tail == b"" and not inflater.eof and len(data) <= size:
            more = "fewer"
        raise ValueError(f"the member unpacks to {more} than the {size} bytes of the directory")
    return data, len(region) - len(inflater.unused_data)
