"""Reads EXIF orientation and ICC profiles with little code that is safe on any bytes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

ORIENTATION = 0x0112  # EXIF 2.3, table 4
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""EXIF's types of integers: BYTE, SHORT, LONG and the signed ones. The standard says SHORT."""
_NUM_PICTURES = 0xB001  # CIPA DC-007, table 3
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

# The primaries of sRGB as ICC profiles store them, adapted to D50 (IEC 61966-2-1, the ICC's profile).
_SRGB = {
    b"rXYZ": (0.4360, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}
_MAX_DIFFERENCE = 0.02
"""Largest difference in a primary of sRGB. Adobe RGB's green and Display P3's red differ by more than 0.1."""


class UnreadableError(ValueError):
    """Metadata does not follow its standard."""


def orientation_of_exif(exif: bytes) -> int | None:
    """Read the orientation, 1 to 8, from EXIF data that begins with its byte order.

    None if the data states no orientation. It may have any integer type. A value outside 1..8 counts as 1.

    Raises:
        UnreadableError: the first directory is outside the data or cut short, or the tag is no integer.
    """
    if not exif:
        return None
    orientation = None
    for order, tag, kind, number, value in _entries(exif):
        if tag == ORIENTATION:
            if orientation is not None or kind not in _INTEGERS or number != 1:
                raise UnreadableError("an orientation of another type")
            (orientation,) = struct.unpack_from(order + _INTEGERS[kind], value)
    # A value without meaning leaves the image as it is. XMP is not read then.
    return None if orientation is None else orientation if 1 <= orientation <= 8 else 1


def pictures_of_mpf(index: bytes) -> int:
    """Read the number of pictures from the index of a multi-picture file (MPF); 1 if it cannot be read."""
    try:
        for order, tag, kind, number, value in _entries(index):
            if tag == _NUM_PICTURES and kind in _INTEGERS and number == 1:
                return max(1, int(struct.unpack_from(order + _INTEGERS[kind], value)[0]))
    except UnreadableError:
        pass
    return 1


def _entries(data: bytes) -> Iterator[tuple[str, int, int, int, bytes]]:
    """Yield the entries of the first directory: byte order, tag, type, count, and the four bytes of a value.

    Raises:
        UnreadableError: the directory is outside the data or cut short.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is None or struct.unpack_from(f"{order}H", data, 2)[0] != 42:
            raise UnreadableError("no byte order")
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(count):
            yield (order, *struct.unpack_from(f"{order}HHI4s", data, start + 2 + 12 * entry))
    except struct.error as error:
        raise UnreadableError(str(error)) from error


def orientation_of_xmp(xmp: bytes) -> int | None:
    """Read the orientation, 1 to 8, from an XMP packet; used if EXIF states none."""
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else None


def icc_warning(profile: bytes) -> str | None:
    """Warn that an ICC profile is ignored; None if it is empty or its colours are those of sRGB.

    Pixels are taken as sRGB with any profile. The same was done for ImageNet and for the training images.
    """
    if not profile:
        return None
    try:
        tags = _tags(profile)
        space = profile[16:20]
        if space == b"GRAY" or (space == b"RGB " and _is_srgb(profile, tags)):
            return None
        name = _description(profile, tags) or space.decode("ascii", "replace").strip()
    except (struct.error, UnreadableError):
        return "ICC profile unreadable, ignored"
    return f"ICC profile {name!r} ignored"


def _tags(profile: bytes) -> dict[bytes, tuple[int, int]]:
    """Map the signature of each tag to (offset, size)."""
    if profile[36:40] != b"acsp":
        raise UnreadableError("no ICC profile")
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > 200:
        raise UnreadableError("too many tags")
    entries = (struct.unpack_from(">4sII", profile, 132 + 12 * n) for n in range(count))
    return {signature: (offset, size) for signature, offset, size in entries}


def _is_srgb(profile: bytes, tags: dict[bytes, tuple[int, int]]) -> bool:
    for name, expected in _SRGB.items():
        if name not in tags:
            return False  # the profile has a table of colours instead of primaries
        xyz = struct.unpack_from(">3i", profile, tags[name][0] + 8)
        if any(abs(v / 65536 - e) > _MAX_DIFFERENCE for v, e in zip(xyz, expected, strict=True)):
            return False
    return True


def _description(profile: bytes, tags: dict[bytes, tuple[int, int]]) -> str:
    if b"desc" not in tags:
        return ""
    offset, _ = tags[b"desc"]
    if profile[offset : offset + 4] == b"mluc":
        length, where = struct.unpack_from(">II", profile, offset + 20)
        text = profile[offset + where : offset + where + min(length, 120)].decode(
            "utf-16-be", "replace"
        )
    else:
        (length,) = struct.unpack_from(">I", profile, offset + 8)
        text = profile[offset + 12 : offset + 12 + min(length, 60)].decode("ascii", "replace")
    return "".join(c for c in text if c.isprintable()).strip()
