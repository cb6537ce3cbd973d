"""Lists the members of a tar from its headers, and skips their bodies.

Reads what GNU tar, bsdtar, Python and `webdataset` write: V7, ustar, GNU long names, PAX. This is Python code
on 512 bytes at a time, and the length of each piece is checked, so it needs no separate process.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple
from zlib import adler32

from pipeline.storage.archives.limits import MOST_HEADER_BYTES, MOST_MEMBERS, MOST_NAME_BYTES
from pipeline.storage.archives.problems import DamagedArchiveError
from pipeline.storage.archives.window import Window

BLOCK = 512
_ZEROS = bytes(BLOCK)
_SPACES = adler32(b" " * 8)
_LINKS = (b"1", b"2")
_WITHOUT_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")
_NO_MEMBERS = (b"3", b"4", b"5", b"6", b"D", b"V")
"""Devices, folders, and GNU's lists of folders and labels of volumes."""
_HEADERS = b"xXgLK"
"""Headers that say something about the next member. X is Solaris' PAX header."""
_MOST_EXTENSIONS = 100_000
"""Blocks that list the pieces of a sparse file."""
_KINDS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"PK\x03\x04", "zip"),
    (b"PAR1", "Parquet"),
)


class TarKind(Enum):
    """What a member of a tar is."""

    FILE = 1
    SYMBOLIC_LINK = 2
    HARD_LINK = 3
    SPARSE = 4
    CONTINUED = 5
    """The rest of a file that began in another volume."""


class TarMember(NamedTuple):
    """A file or a link in a tar."""

    kind: TarKind
    name: bytes
    offset: int
    """First byte of the body."""
    size: int
    target: bytes
    """Name that a link leads to, as a name of this archive."""


class _Extended(NamedTuple):
    """What the headers before a header say about its member."""

    name: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    sparse: bool = False


_NONE = _Extended()
_PLAIN = (b"0", b"\0")
_SLASH = 0x2F


def iter_tar(window: Window) -> Iterator[TarMember]:
    """Yield files and links, in the order of the archive. Folders and devices are left out.

    Raises:
        DamagedArchiveError: the archive is damaged. What was yielded lies before the damage.
        StorageError: a part cannot be read.
    """
    offset, count, extended = 0, 0, _NONE
    while True:
        header = window.read(offset, BLOCK)
        if header == _ZEROS:
            _check_end(window, offset)
            return
        kind, size = _check_header(header, offset, window.size)
        body = offset + BLOCK
        if kind in _HEADERS:
            if size > MOST_HEADER_BYTES:
                raise DamagedArchiveError(
                    offset,
                    f"has a header of {size} bytes, more than the limit of {MOST_HEADER_BYTES}",
                )
            _check_inside(window, body, size, offset)
            extended = _extend(extended, kind, window.read(body, size), offset)
            offset = body + _padded(size)
            continue
        if kind in _PLAIN and extended is _NONE:  # nine of ten members: the short way
            if not 0 < size <= window.size - body:
                _check_inside(window, body, size, offset)
            name = _name(header)
            if name and name[-1] != _SLASH:
                if count == MOST_MEMBERS:
                    raise DamagedArchiveError(offset, f"has more than {MOST_MEMBERS} members")
                count += 1
                yield TarMember(TarKind.FILE, name, body, size, b"")
            offset = body + (size + 511 & -512)
            continue
        size = size if extended.size is None else extended.size
        name = _name(header) if extended.name is None else extended.name
        sparse = kind == b"S" or extended.sparse
        if kind == b"S":
            body = _after_sparse_map(window, header, body)
        stored = 0 if kind in _WITHOUT_BODY else size
        _check_inside(window, body, stored, offset)
        member = _member(header, kind, name, body, size, extended.target, sparse)
        if member is not None:
            if count == MOST_MEMBERS:
                raise DamagedArchiveError(offset, f"has more than {MOST_MEMBERS} members")
            count += 1
            yield member
        offset, extended = body + _padded(stored), _NONE


def _member(
    header: bytes,
    kind: bytes,
    name: bytes,
    body: int,
    size: int,
    target: bytes | None,
    sparse: bool,
) -> TarMember | None:
    """Return a file or a link; None for anything else. A file of an unknown kind is one, by POSIX."""
    if not name or kind in _NO_MEMBERS or name.endswith(b"/"):
        return None
    if sparse:
        return TarMember(TarKind.SPARSE, name, body, size, b"")
    if kind == b"M":
        return TarMember(TarKind.CONTINUED, name, body, size, b"")
    if kind not in _LINKS:
        return TarMember(TarKind.FILE, name, body, size, b"")
    target = _text(header, 157, 257) if target is None else target
    if kind == b"1":
        return TarMember(TarKind.HARD_LINK, name, body, 0, target)
    return TarMember(TarKind.SYMBOLIC_LINK, name, body, 0, beside(name, target))


def _check_header(header: bytes, offset: int, size: int) -> tuple[bytes, int]:
    """Return type and size in a header. Raises DamagedArchiveError if it is none."""
    if len(header) < BLOCK:
        if offset == 0 and not header:
            raise DamagedArchiveError(0, "is empty")
        if offset == 0:
            raise DamagedArchiveError(0, f"is no tar: {_what(header)}")
        cause = "ends without its end mark, so it may be cut" if not header else "ends in a header"
        raise DamagedArchiveError(min(offset, size), cause)
    checksum = _number(header[148:156])
    if checksum is None or not _has_checksum(header, checksum):
        cause = f"is no tar: {_what(header)}" if offset == 0 else "has no header where one must be"
        raise DamagedArchiveError(offset, cause)
    length = _number(header[124:136])
    if length is None or length < 0:
        raise DamagedArchiveError(offset, "has a header without a size")
    return header[156:157], length


def _what(data: bytes) -> str:
    for magic, name in _KINDS:
        if data.startswith(magic):
            return f"it is {name} data"
    return "it has no header of a member"


def _has_checksum(header: bytes, checksum: int) -> bool:
    """Whether the bytes of a header, with spaces for the checksum, sum up to this number."""
    # The lower half of Adler-32 is the sum, modulo 65521, and ten times as fast as Python's sum.
    if adler32(header[156:], adler32(header[:148], _SPACES)) & 0xFFFF == (1 + checksum) % 65521:
        return True
    plain = header[:148] + header[156:]  # old programs summed signed bytes
    return sum(plain) - 256 * sum(byte > 127 for byte in plain) + 256 == checksum


def _number(field: bytes) -> int | None:
    """Read an octal number, or a binary one as GNU tar writes for large values; None if it is neither."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (
            0 if field[0] == 0x80 else 1 << 8 * len(field[1:])
        )
    digits = field.partition(b"\0")[0].strip()
    if digits.isdigit():
        return int(digits, 8) if b"8" not in digits and b"9" not in digits else None
    return None if digits else 0


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(header: bytes, first: int, last: int) -> bytes:
    return header[first:last].partition(b"\0")[0]


def _name(header: bytes) -> bytes:
    name = _text(header, 0, 100)
    if header[257:263] == b"ustar\0" and (prefix := _text(header, 345, 500)):
        return prefix + b"/" + name
    return name


def _check_inside(window: Window, body: int, size: int, offset: int) -> None:
    if body + size > window.size:
        raise DamagedArchiveError(
            offset,
            f"is cut: a member of {size} bytes begins, and {window.size - body} bytes follow",
        )


def _check_end(window: Window, offset: int) -> None:
    """Raise DamagedArchiveError if anything but zeros follows the end mark."""
    while offset < window.size:
        data = window.read(offset, BLOCK * 128)
        if data.strip(b"\0"):
            raise DamagedArchiveError(
                offset,
                "goes on after its end mark: members there are not read (tar --concatenate joins)",
            )
        offset += len(data)


def _after_sparse_map(window: Window, header: bytes, body: int) -> int:
    """Return where the body of an old GNU sparse file begins: after the blocks that list its pieces."""
    more = header[482] != 0
    for _ in range(_MOST_EXTENSIONS):
        if not more:
            return body
        block = window.read(body, BLOCK)
        if len(block) < BLOCK:
            break
        more, body = block[504] != 0, body + BLOCK
    raise DamagedArchiveError(body, "has a sparse file without an end")


def _extend(extended: _Extended, kind: bytes, data: bytes, offset: int) -> _Extended:
    """Add what an extended header says about the next member."""
    if kind == b"g":  # times and comments of all members
        return extended
    if kind in b"LK":
        records = {b"path" if kind == b"L" else b"linkpath": data}
    else:
        records = dict(_pax_records(data, offset))
    for key in (b"path", b"GNU.sparse.name", b"linkpath"):
        # An empty text means that of the header.
        if text := records.get(key, b"").partition(b"\0")[0]:
            if len(text) > MOST_NAME_BYTES:
                cause = f"has a name of {len(text)} bytes, more than the limit of {MOST_NAME_BYTES}"
                raise DamagedArchiveError(offset, cause)
            if key == b"linkpath":
                extended = extended._replace(target=text)
            else:
                extended = extended._replace(name=text)
    if (size := records.get(b"size")) is not None:
        if not size.isdigit() or len(size) > 19:
            raise DamagedArchiveError(offset, "has a PAX header without a size")
        extended = extended._replace(size=int(size))
    if any(key.startswith(b"GNU.sparse.") for key in records):
        extended = extended._replace(sparse=True)
    return extended


def _pax_records(data: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records ``length key=value`` of a PAX header."""
    at = 0
    while at < len(data) and data[at] != 0:
        digits, space, _ = data[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() and space else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if length <= len(digits) + 1 or len(record) < length or not equals or record[-1:] != b"\n":
            raise DamagedArchiveError(offset, "has a damaged PAX header")
        yield key, value
        at += length


def beside(name: bytes, target: bytes) -> bytes:
    """Return the name in the archive that a symbolic link means: it is relative to the link's folder.

    ``..`` is resolved as text. A target outside of the archive gives a name that no member has.
    """
    if target.startswith(b"/"):
        return target
    start = b"./" if name.startswith(b"./") else b""
    parts = name.removeprefix(b"./").split(b"/")[:-1]
    for part in target.split(b"/"):
        if part == b".." and parts and parts[-1] != b"..":
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return start + b"/".join(parts)
