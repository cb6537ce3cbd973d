"""Reads the header of a JPEG XL file (ISO 18181-1, annexes B and D).

imagecodecs, the wrapper of libjxl, gives samples without saying how many bits they have and whether their
colours are sRGB. The header says it.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.images.boxes import read_boxes

JXL_CODESTREAM = b"\xff\x0a"
JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_HEADER_BYTES = 4096
_MOST_CHANNELS = 16

_Choices = tuple[tuple[int, int], ...]
"""Four pairs (offset, bits): two bits of the file choose one of them, and the number is offset + u(bits)."""
_SIDE: _Choices = ((1, 9), (1, 13), (1, 18), (1, 30))
_ENUM: _Choices = ((0, 0), (1, 0), (2, 4), (18, 6))


class JxlHeader(NamedTuple):
    """What the header of a JPEG XL picture states."""

    height: int
    width: int
    """After the picture is turned; `height` too."""
    bits: int
    """Bits of an integer sample; 0 for floats."""
    animated: bool
    premultiplied: bool
    """Whether the colours are multiplied with their opacity."""
    colours: str | None
    """The name of colours that are not sRGB; None if they are, or if an ICC profile describes them."""


class _Bits:
    """Reads numbers bit by bit, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def u(self, bits: int) -> int:
        """Read a number of so many bits. Raises ValueError at the end of the data."""
        self._left -= bits
        if self._left < 0:
            raise ValueError("the header is cut short")
        value = self._value & ((1 << bits) - 1)
        self._value >>= bits
        return value

    def flag(self) -> bool:
        return bool(self.u(1))

    def choose(self, choices: _Choices) -> int:
        offset, bits = choices[self.u(2)]
        return offset + self.u(bits)


def read_jxl(data: bytes) -> JxlHeader | None:
    """Read the header; None if it is damaged or cut short."""
    try:
        return _read(_Bits(_codestream(data)))
    except ValueError:
        return None


def _codestream(data: bytes) -> bytes:
    """Return the first bytes of the codestream, behind its signature."""
    if data.startswith(JXL_CODESTREAM):
        return data[2 : 2 + _HEADER_BYTES]
    head = b""
    for box in read_boxes(data):
        if box.kind in (b"jxlc", b"jxlp"):
            # A part begins with its number.
            start = box.start + (4 if box.kind == b"jxlp" else 0)
            head += data[start : min(box.end, start + _HEADER_BYTES)]
        if box.kind == b"jxlc" or len(head) >= _HEADER_BYTES:
            break
    if not head.startswith(JXL_CODESTREAM):
        raise ValueError("no codestream")
    return head[2:]


def _read(bits: _Bits) -> JxlHeader:
    height, width = _read_size(bits)
    header = JxlHeader(height, width, 8, False, False, None)
    if bits.flag():  # all values are the usual ones
        return header
    orientation, animated = 1, False
    if bits.flag():
        orientation = 1 + bits.u(3)
        if bits.flag():
            _read_size(bits)  # the size at which it should be shown
        if bits.flag():
            _read_preview(bits)
        animated = bits.flag()
        if animated:
            _read_animation(bits)
    if orientation >= 5:
        height, width = width, height
    depth = _read_depth(bits)
    bits.flag()
    header = JxlHeader(height, width, depth, animated, False, None)
    channels = bits.choose(((0, 0), (1, 0), (2, 4), (1, 12)))
    if channels > _MOST_CHANNELS:
        return header
    premultiplied = any([_read_channel(bits) for _ in range(channels)])
    bits.flag()
    return header._replace(premultiplied=premultiplied, colours=_read_colours(bits))


def _read_size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()

    def side() -> int:
        return 8 * (bits.u(5) + 1) if small else bits.choose(_SIDE)

    height = side()
    ratio = bits.u(3)
    if not ratio:
        return height, side()
    above, below = _RATIOS[ratio - 1]
    return height, height * above // below


def _read_preview(bits: _Bits) -> None:
    eighths: _Choices = ((16, 0), (32, 0), (1, 5), (33, 9))
    pixels: _Choices = ((1, 6), (65, 8), (321, 10), (1345, 12))
    choices = eighths if bits.flag() else pixels
    bits.choose(choices)
    if not bits.u(3):
        bits.choose(choices)


def _read_animation(bits: _Bits) -> None:
    bits.choose(((100, 0), (1000, 0), (1, 10), (1, 30)))
    bits.choose(((1, 0), (1001, 0), (1, 8), (1, 10)))
    bits.choose(((0, 0), (0, 3), (0, 16), (0, 32)))
    bits.flag()


def _read_depth(bits: _Bits) -> int:
    """Read the bits of a sample; 0 for floats."""
    if bits.flag():
        bits.choose(((32, 0), (16, 0), (24, 0), (1, 6)))
        bits.u(4)
        return 0
    return bits.choose(((8, 0), (10, 0), (12, 0), (1, 6)))


def _read_channel(bits: _Bits) -> bool:
    """Read an extra channel: whether it is opacity with which the colours are multiplied."""
    if bits.flag():  # usual opacity
        return False
    kind = bits.choose(_ENUM)
    _read_depth(bits)
    bits.choose(((0, 0), (3, 0), (4, 0), (1, 3)))
    name = bits.choose(((0, 0), (0, 4), (16, 5), (48, 10)))
    bits.u(8 * name)
    if kind == 2:  # a spot colour
        bits.u(64)
    elif kind == 5:
        bits.choose(((1, 0), (0, 2), (3, 4), (19, 8)))
    return kind == 0 and bits.flag()


def _read_colours(bits: _Bits) -> str | None:
    if bits.flag():  # sRGB
        return None
    has_profile, space = bits.flag(), bits.choose(_ENUM)
    if has_profile or space not in (0, 1):
        return "of an ICC profile" if has_profile and space == 0 else None
    white = bits.choose(_ENUM)
    if white == 2 or space == 1:
        return None if space == 1 else "with a white of its own"
    primaries = bits.choose(_ENUM)
    if primaries != 1:
        return {9: "BT.2100", 11: "P3"}.get(primaries, "with primaries of its own")
    if bits.flag():
        return "with a gamma of its own"
    transfer = bits.choose(_ENUM)
    return {8: "linear", 16: "PQ", 17: "DCI", 18: "HLG"}.get(transfer)
