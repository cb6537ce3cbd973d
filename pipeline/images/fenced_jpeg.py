"""Decodes unusual and damaged JPEGs. It runs behind the fence.

strict libjpeg-turbo        CMYK, several pictures, many scans: no warning, all pixels are right
a file that lacks its end   how many of its rows are there, and a warning; or it is undecodable
12 bits, lossless           imagecodecs
everything else             Pillow decides
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from pipeline.images.codecs import Picture, picture_of
from pipeline.images.guard import ImageError, check_pixels
from pipeline.images.jpeg import (
    LACKS_END,
    LACKS_SCANS,
    LOSSLESS,
    Jpeg,
    Scans,
    has_full_detail,
    read_jpeg,
    read_scans,
)
from pipeline.images.samples import NEUTRAL, SampleRules, Samples

MIN_ROWS = 0.95
"""Share of its rows that a file without its end must have."""
_FILLER = np.random.default_rng(0).integers(0, 255, 4096, np.uint8).tobytes()
"""Bytes in the place of those that are missing. None of them is 0xFF, which would begin a marker."""
_LESS_DETAIL = "less sharp than it was: its scans end before the full detail"
_END = b"\xff\xd9"
_MISSING_ZEROS = 16
"""So many zeros at the end of a file are missing data: disks and downloads leave them."""


class Decoded(NamedTuple):
    """A decoded JPEG, not yet turned."""

    picture: Picture
    lacks_end: bool
    """Whether the file ends before its picture does."""


def decode_jpeg(data: bytes, max_pixels: int, rules: SampleRules = NEUTRAL) -> Decoded | str:
    """Decode a JPEG. A text means that Pillow must decide, and gives libjpeg's complaint.

    Raises:
        ImageError: `undecodable` or `too_large`.
    """
    jpeg = read_jpeg(data, max_pixels)
    check_pixels(jpeg.height, jpeg.width, max_pixels)
    if jpeg.kind in LOSSLESS or jpeg.frame[0] != 8:
        return _by_imagecodecs(data, jpeg, rules)
    notes = [_LESS_DETAIL] if jpeg.odd == LACKS_SCANS else []
    try:
        return Decoded(Picture(_decode(data, jpeg, strict=True), notes), False)
    except ValueError as error:
        complaint = str(error)
    if "remature end" in complaint:  # of the file, or of a scan
        cut = _decode_cut(data, jpeg, lambda part: np.asarray(_decode(part, jpeg, strict=False)))
        if cut is not None:
            return Decoded(Picture(Image.fromarray(cut.samples), [cut.note]), True)
    return complaint


def _by_imagecodecs(data: bytes, jpeg: Jpeg, rules: SampleRules) -> Decoded:
    """Decode a JPEG of more than 8 bits, or a lossless one.

    The library does not say that data are missing, so `_decode_cut` looks for it.
    """
    import imagecodecs

    bits = jpeg.frame[0]
    lossless = ", lossless" if jpeg.kind in LOSSLESS else ""
    kind = f"a JPEG of {bits} bits{lossless} with {jpeg.frame[5]} components"

    def decoded(part: bytes) -> Samples:
        try:
            return imagecodecs.jpeg8_decode(part)
        except (RuntimeError, ValueError) as error:
            raise ImageError("undecodable", f"{kind}: {error}") from error

    samples = decoded(data)
    if samples.shape[:2] != (jpeg.height, jpeg.width) or jpeg.frame[5] not in (1, 3):
        raise ImageError("undecodable", f"{kind} is not supported")
    # The library decodes some sound lossless files in two ways, so their end marker is trusted.
    whole = jpeg.kind in LOSSLESS and read_scans(data, jpeg.scan_at).end is not None
    cut = None if whole else _decode_cut(data, jpeg, decoded, samples)
    if cut is not None:
        samples = cut.samples
    image, notes = picture_of(samples, bits, rules)
    return Decoded(Picture(image, [cut.note, *notes] if cut else notes), cut is not None)


def _decode(data: bytes, jpeg: Jpeg, *, strict: bool) -> Image.Image:
    """Decode with libjpeg-turbo. Raises ValueError with its complaint; unless `strict`, only if it stops."""
    space = "CMYK" if jpeg.frame[5] == 4 else "RGB"
    pixels = simplejpeg.decode_jpeg(data, space, strict=strict)
    if pixels.shape[:2] != (jpeg.height, jpeg.width):
        raise ValueError("another size than in the header")
    if space == "CMYK":  # stored inverted, as Adobe began to do
        size = (jpeg.width, jpeg.height)
        inks = Image.frombuffer("CMYK", size, pixels, "raw", "CMYK;I", 0, 1)
        return inks.convert("RGB")
    return Image.fromarray(pixels)


class Cut(NamedTuple):
    """A decoded JPEG whose data end before its picture does."""

    samples: Samples
    note: str


def _decode_cut(
    data: bytes, jpeg: Jpeg, decode: Callable[[bytes], Samples], decoded: Samples | None = None
) -> Cut | None:
    """Decode a JPEG whose data may end before its picture does.

    None if its data end where they should; if a decoder complained, the damage lies elsewhere.

    Args:
        data: the whole file.
        jpeg: its header.
        decode: decodes a file to (H, W) or (H, W, C), and puts something in the place of what is missing.
        decoded: what `decode` gives for the whole file, if that is known. It saves one decoding.

    Raises:
        ImageError: `undecodable`: too much of the picture is missing.
    """
    scans = read_scans(data, jpeg.scan_at)
    components = jpeg.frame[6::3][: jpeg.frame[5]]
    if not scans.headers or not has_full_detail(scans, components, jpeg.kind):
        if scans.end is not None:
            return None
        raise ImageError(
            "undecodable",
            f"{LACKS_END}: whole scans are missing, so all of its rows are incomplete",
        )
    body = data[: scans.end]
    stripped = body.rstrip(b"\0")
    if len(body) - len(stripped) >= _MISSING_ZEROS:
        body = stripped
    body = body.rstrip(b"\xff")  # half a marker
    unchanged = scans.end == len(body)
    samples = decoded if decoded is not None and unchanged else decode(body + _END)
    other = decode(body + _filler(body) + _END)
    share = _share_there(samples, other, _block(jpeg, scans))
    if share == 1 and scans.end is not None:
        return None
    if share < MIN_ROWS:
        raise ImageError(
            "undecodable",
            f"{LACKS_END}: {_percent(share)} of its rows are there, less than {MIN_ROWS:.0%}",
        )
    rows = "all of its rows" if share == 1 else f"{_percent(share)} of its rows"
    return Cut(samples, f"{LACKS_END}: {rows} are there")


def _percent(share: float) -> str:
    """Write a share, rounded down: 94.99 percent are not 95."""
    return f"{int(1000 * share) / 10:g}%"


def _filler(body: bytes) -> bytes:
    """Make data that continue a scan. Where it must go on with a restart marker, they hold the right one."""
    last = max((body.rfind(bytes((0xFF, 0xD0 + n))), n) for n in range(8))
    following = (last[1] + 1) % 8 if last[0] > body.rfind(b"\xff\xda") else 0
    return _FILLER + bytes((0xFF, 0xD0 + following)) + _FILLER


def _share_there(image: Samples, other: Samples, block: tuple[int, int]) -> float:
    """Return the share of an image that its data determine.

    The two images are decoded from the same data, but with other bytes in the place of the missing end. Their
    first difference is the first block that the data do not determine. A scan goes through the blocks row by
    row.

    Args:
        image: (H, W) or (H, W, C).
        other: of the same shape.
        block: height and width of the blocks in pixels.
    """
    num_rows, num_columns = image.shape[:2]
    image, other = (
        image.reshape(num_rows, num_columns, -1),
        other.reshape(num_rows, num_columns, -1),
    )
    rows = (image != other).reshape(num_rows, -1).any(axis=1)  # (H,)
    if not rows.any():
        return 1.0
    height, width = block
    # When colours of a lower resolution are enlarged, a difference reaches one pixel into the block before.
    reach = min(1, height - 1)
    top = (int(rows.argmax()) + reach) // height * height
    band = slice(max(0, top - 1), top + height)
    columns = (image[band] != other[band]).any(axis=(0, 2))  # (W,)
    left = (int(columns.argmax()) + min(1, width - 1)) // width * width if columns.any() else 0
    complete = top * num_columns + min(left, num_columns) * min(height, num_rows - top)
    return float(min(complete, rows.size * num_columns) / (rows.size * num_columns))


def _block(jpeg: Jpeg, scans: Scans) -> tuple[int, int]:
    """Return the height and width in pixels of what the last scan codes at a time (T.81, A.2)."""
    frame, side = jpeg.frame, 1 if jpeg.kind in LOSSLESS else 8
    sampling = {frame[at]: divmod(frame[at + 1], 16) for at in range(6, len(frame) - 2, 3)}
    widest = max(x for x, _ in sampling.values())
    tallest = max(y for _, y in sampling.values())
    last = scans.headers[-1]
    if last[0] == 1 and last[1] in sampling:
        x, y = sampling[last[1]]
        return side * tallest // max(1, y), side * widest // max(1, x)
    return side * tallest, side * widest
