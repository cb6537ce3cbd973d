"""Reads the directories of a TIFF file: its pictures, and the tags that say how each one is stored.

    read_directories(data)       all pictures, at most `MOST_DIRECTORIES`
    find_picture(directories)    the full picture among thumbnails, masks and later pages

This is Python code that reads a few hundred bytes, so the limits are checked before a library gets the data.
Numbers of tags are those of TIFF 6.0, section 8 and appendix A.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.images.guard import ImageError


class Data(Protocol):
    """The bytes of a file: all of them in memory, or parts that are read when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


MOST_DIRECTORIES = 64
"""Directories that are read. Further pages count as "several"."""
_MOST_ENTRIES = 4096
"""Entries of a directory at most; the standard knows fewer than 200."""
_SLACK = 65536
"""Bytes that the values of all tags may have in addition to twice the size of the file: pages may share
values. A file that says more makes a reader read the same bytes again and again."""
_MOST_VALUES = 4096
"""Values of a tag that are read here."""

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SUB_IFDS = 254, 255, 330
_ICC_PROFILE = 34675
_READ = frozenset(
    (_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SUB_IFDS, 256, 257, 258, 259, 262, 274, 277, 278, 280, 281)
    + (284, 322, 323, 332, 338, 339, 340, 341, 530, 32997)
)
"""Tags whose values are read."""
_TYPES = {
    1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d",
    13: "I", 16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
"""The types of values as `struct` writes them."""
_CUT = "its directory lies past the end of the file: it is cut short or damaged"


@dataclass(kw_only=True, slots=True)
class Directory:
    """What the tags of one picture say. Tags that a file lacks have the standard's default."""

    offset: int
    """Position of the directory in the file."""
    parent: int | None = None
    """Offset of the directory whose SubIFD this one is; None for a page."""
    values: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    icc: bytes = b""

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag as an integer."""
        values = self.values.get(tag)
        return int(values[0]) if values else default

    @property
    def height(self) -> int:
        """As stored, before orientation."""
        return self.number(257)

    @property
    def width(self) -> int:
        """As stored, before orientation."""
        return self.number(256)

    @property
    def bands(self) -> int:
        """SamplesPerPixel."""
        return self.number(277, 1)

    @property
    def bits(self) -> int:
        """BitsPerSample of the first band."""
        return self.number(258, 1)

    @property
    def compression(self) -> int:
        return self.number(259, 1)

    @property
    def photometric(self) -> int:
        return self.number(262, -1)

    @property
    def orientation(self) -> int:
        value = self.number(274, 1)
        return value if 1 <= value <= 8 else 1

    @property
    def planar(self) -> bool:
        """Whether each band has a separate plane."""
        return self.number(284, 1) == 2

    @property
    def sample_format(self) -> int:
        """1 unsigned, 2 signed, 3 float, 4 undefined, 5 and 6 complex."""
        return self.number(339, 1)

    @property
    def extra(self) -> tuple[int, ...]:
        """ExtraSamples, the last bands: 0 unspecified, 1 alpha that is multiplied in, 2 alpha."""
        return self.values.get(338, ())[: self.bands]

    @property
    def segment(self) -> tuple[int, int]:
        """(height, width) of its tiles, or of its strips; those at the edge may be smaller."""
        if 322 in self.values:
            return max(1, self.number(323)), max(1, self.number(322))
        return min(self.number(278) or self.height, self.height), self.width

    @property
    def reduced(self) -> bool:
        """Whether it is a thumbnail or another picture of lower resolution."""
        return self.number(_NEW_SUBFILE_TYPE) & 1 == 1 or self.number(_SUBFILE_TYPE) == 2

    @property
    def mask(self) -> bool:
        """Whether it is a mask of another picture."""
        return self.number(_NEW_SUBFILE_TYPE) & 4 == 4 or self.photometric == 4


class _Reader:
    """Reads directories and counts the bytes of their values."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.bytes_of_values = 0

    def first(self) -> int:
        """Return the offset of the first directory."""
        return self.word(8) if self.big else self.word(4)

    def unpack(self, layout: str, at: int) -> tuple[Any, ...]:
        """Read values from position `at`. `layout` is that of `struct`, without the order of the bytes."""
        packed = struct.Struct(self.order + layout)
        return packed.unpack(self.data[at : at + packed.size])

    def word(self, at: int) -> int:
        size = 8 if self.big else 4
        value = self.data[at : at + size]
        if len(value) < size:
            raise ImageError("undecodable", _CUT)
        return int.from_bytes(value, "little" if self.order == "<" else "big")

    def directory(self, offset: int, parent: int | None = None) -> tuple[Directory, int]:
        """Read one directory. Return it and the offset of the next one, 0 if there is none.

        Raises:
            ImageError: it is not in the file, or the values of all tags have too many bytes.
        """
        head, size = ("Q", 20) if self.big else ("H", 12)
        start = offset + struct.calcsize(head)
        if start > len(self.data):
            raise ImageError("undecodable", _CUT)
        (count,) = self.unpack(head, offset)
        if count > _MOST_ENTRIES:
            raise ImageError("undecodable", f"a TIFF directory of {count} tags")
        if start + count * size > len(self.data):
            raise ImageError("undecodable", _CUT)
        directory = Directory(offset=offset, parent=parent)
        for entry in range(count):
            self._entry(directory, start + entry * size)
        if self.bytes_of_values > 2 * len(self.data) + _SLACK:
            raise ImageError("undecodable", "its tags have more bytes than the file")
        after = start + count * size
        return directory, self.word(after) if after + (8 if self.big else 4) <= len(
            self.data
        ) else 0

    def _entry(self, directory: Directory, at: int) -> None:
        layout, room = ("HHQ", 8) if self.big else ("HHI", 4)
        tag, kind, count = self.unpack(layout, at)
        if kind not in _TYPES:
            return
        each = struct.calcsize("=" + _TYPES[kind])
        where = at + struct.calcsize("=" + layout)
        if each * count > room:
            where = self.word(where)
        if where + each * count > len(self.data):
            return  # the libraries pass over such a tag too; without a tag that matters they refuse the file
        self.bytes_of_values += each * count
        if tag == _ICC_PROFILE:
            directory.icc = self.data[where : where + each * count]
        elif (
            tag in _READ and count and _TYPES[kind] in "BHIbhifdQq" and tag not in directory.values
        ):
            layout = f"{min(count, _MOST_VALUES)}{_TYPES[kind]}"
            directory.values[tag] = self.unpack(layout, where)


def read_directories(data: Data) -> tuple[list[Directory], bool]:
    """Read the pages of a TIFF file, each followed by its SubIFDs.

    Returns:
        The directories, and whether the file has more than `MOST_DIRECTORIES`. A later directory that cannot
        be read ends the list.

    Raises:
        ImageError: `undecodable`: the first directory cannot be read.
    """
    reader = _Reader(data)
    directories: list[Directory] = []
    following, seen = reader.first(), set[int]()
    while following and following not in seen:
        if len(directories) >= MOST_DIRECTORIES:
            return directories, True
        seen.add(following)
        try:
            page, following = reader.directory(following)
        except ImageError:
            if directories:
                return directories, False
            raise
        directories.append(page)
        directories += _inside(reader, page, seen)
    if not directories:
        raise ImageError("undecodable", "a TIFF without a picture")
    return directories[:MOST_DIRECTORIES], len(directories) > MOST_DIRECTORIES


def _inside(reader: _Reader, page: Directory, seen: set[int]) -> Iterator[Directory]:
    """Read the SubIFDs of a page."""
    for offset in page.values.get(_SUB_IFDS, ())[:MOST_DIRECTORIES]:
        if offset in seen or not isinstance(offset, int) or offset <= 0:
            continue
        seen.add(offset)
        try:
            yield reader.directory(offset, page.offset)[0]
        except ImageError:
            return


def find_picture(directories: Sequence[Directory]) -> tuple[Directory, str | None]:
    """Find the full picture. It is the first page, unless that page is a thumbnail.

    A page is a thumbnail if it is tagged as reduced, or if a SubIFD of it is larger and not tagged so. Then
    the picture is the first one that is neither reduced nor a mask; without such a one, the largest.

    Returns:
        The directory of the picture, and a warning or None.
    """
    first = directories[0]
    full = [d for d in directories if not (d.reduced or d.mask)]
    if first in full:
        larger = [d for d in full if d.parent == first.offset and _area(d) > _area(first)]
        return max(larger, key=_area, default=first), None
    if full:
        return full[0], None
    pictures = [d for d in directories if not d.mask] or [first]
    return max(pictures, key=_area), "the file tags it as a reduced picture, and holds no full one"


def frames(directories: Sequence[Directory], more: bool) -> str | None:
    """Warn if the file has several full pages."""
    if more:
        return "first frame of several"
    full = [d for d in directories if d.parent is None and not (d.reduced or d.mask)]
    return f"first frame of {len(full)}" if len(full) > 1 else None


def _area(directory: Directory) -> int:
    return directory.height * directory.width
