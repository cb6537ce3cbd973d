"""Decodes TIFF files of every depth, layout and sample type. It runs behind the fence.

    tiff_directory    which picture of the file, and how it is stored
    libtiff           8-bit pictures in the usual layouts, through Pillow: as fast as TIFF gets
    tifffile          everything else: strips and tiles -> samples (H, W, bands)
    tiff_colours      samples -> RGB

What no library reads gets a cause that names it. tifffile and imagecodecs are imported when the first TIFF
comes, so that the decoding process starts as fast as before.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tifffile

from pipeline.errors import one_line
from pipeline.images.guard import ImageError, check_pixels
from pipeline.images.metadata import TURNED, icc_warning
from pipeline.images.pillow import decode_with_notes, image_errors, upright
from pipeline.images.samples import (
    MOST_BANDS,
    Declared,
    Pixels,
    SampleRules,
    Samples,
    pick_bands,
)
from pipeline.images.tiff_colours import (
    CIELAB,
    CMYK,
    MIN_IS_BLACK,
    MIN_IS_WHITE,
    PALETTE,
    RGB,
    YCBCR,
    plan_bands,
    to_rgb,
)
from pipeline.images.tiff_directory import Directory, find_picture, frames, read_directories
from pipeline.images.tiff_segments import JPEG_2000, read_samples

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it reports is checked here

_IN_LIBTIFF = (2, 3, 4, 5, 6, 7, 8, 32773, 32946)
"""Compressions that libtiff decodes: CCITT, LZW, both JPEGs, deflate, PackBits."""
_SUPPORTED = frozenset(
    (1, *_IN_LIBTIFF, *JPEG_2000, 34887, 34925, 34926, 34927, 50000, 50001, 50002, 52546)
    + (22610, 34892, 34933, 34934)
)
"""Those; none; JPEG 2000; LERC, LZMA, Zstandard, WebP, JPEG XL; JPEG XR, DNG's JPEG, PNG."""
_CAMERA = "a raw picture of a camera"
_NOT_SUPPORTED = {
    4: "a mask of another picture",
    10: "ITU L*a*b* colours",
    32803: _CAMERA,
    32844: "LogL samples",
    32845: "LogLuv colours",
    34892: _CAMERA,
}
"""PhotometricInterpretation."""


def decode_tiff(data: bytes, max_pixels: int, rules: SampleRules) -> tuple[Pixels, str | None]:
    """Decode the full picture of the first page: (H, W, 3) uint8 RGB, upright, and a warning or None.

    Raises:
        ImageError: `undecodable` or `too_large`.
    """
    with tiff_errors():
        directories, more = read_directories(data)
        directory, note = find_picture(directories)
        check_pixels(directory.height, directory.width, max_pixels)
        check_supported(directory)
        notes = [note, frames(directories, more)]
        first = data if directory is directories[0] else _with_first(data, directory.offset)
        with tifffile.TiffFile(io.BytesIO(first)) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            if _libtiff_reads(directory, page):
                pixels, more_notes = _by_libtiff(first, directory, max_pixels, rules)
                return pixels, _joined(more_notes + notes)
            pixels, more_notes = _by_tifffile(first, page, directory, rules)
    notes = more_notes + notes + [icc_warning(directory.icc)]
    return upright(pixels, directory.orientation), _joined(notes)


def size_of_tiff(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Read (height, width) after orientation, without decoding pixels. Raises `ImageError`."""
    directory, _ = find_picture(read_directories(data)[0])
    check_pixels(directory.height, directory.width, max_pixels)
    _check_size(directory)
    turned = directory.orientation in TURNED
    height, width = directory.height, directory.width
    return (width, height) if turned else (height, width)


@contextmanager
def tiff_errors() -> Iterator[None]:
    """Turn the exceptions of tifffile and imagecodecs into `ImageError`."""
    with image_errors():
        try:
            yield
        except (ImportError, NotImplementedError) as error:
            raise ImageError("undecodable", f"not supported: {one_line(error)}") from error
        except RuntimeError as error:  # what the codecs raise
            raise ImageError("undecodable", one_line(error)) from error
        except (TypeError, AttributeError, LookupError, AssertionError) as error:  # from tifffile
            cause = f"its tags do not fit together ({one_line(error)})"
            raise ImageError("undecodable", cause) from error


def _joined(notes: Sequence[str | None]) -> str | None:
    return "; ".join(note for note in notes if note) or None


def _check_size(d: Directory) -> None:
    if d.height < 1 or d.width < 1:
        raise ImageError("undecodable", f"a TIFF that states the size {d.width} x {d.height}")


def check_supported(d: Directory) -> None:
    """Raise ImageError with a cause that names what is not supported."""
    _check_size(d)
    if d.bands < 1 or d.bands > MOST_BANDS:
        raise ImageError(
            "undecodable", f"a TIFF of {d.bands} bands: 1 to {MOST_BANDS} are supported"
        )
    depths = set(d.values.get(258, ()))
    if len(depths) > 1:
        some = ", ".join(map(str, sorted(depths)[:5]))
        raise ImageError("undecodable", f"bands of different depths ({some} bits): not supported")
    what = _NOT_SUPPORTED.get(d.photometric)
    if d.compression not in _SUPPORTED:
        what = f"TIFF compression {_compression(d.compression)}"
    elif d.number(32997, 1) > 1:
        what = f"a volume of {d.number(32997)} slices"
    elif d.sample_format in (5, 6):
        what = "complex numbers as samples"
    elif d.photometric == CMYK and d.number(332, 1) == 2:
        what = "inks other than CMYK"
    elif d.photometric in (CIELAB, 9) and (d.bits, d.bands) != (8, 3):
        what = f"L*a*b* colours of {d.bits} bits in {d.bands} bands"
    if what:
        raise ImageError("undecodable", f"{what}: not supported")


def _compression(number: int) -> str:
    try:
        return f"{number} ({tifffile.COMPRESSION(number).name})"
    except ValueError:
        return str(number)


def _with_first(data: bytes, offset: int) -> bytes:
    """Make the directory at `offset` the first one of the file."""
    order = "little" if data[:2] == b"II" else "big"
    at, size = (8, 8) if data[2:4] in (b"+\0", b"\0+") else (4, 4)
    return data[:at] + offset.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


# --- 8 bits in the usual layouts ------------------------------------------------------------------------


def _libtiff_reads(d: Directory, page: tifffile.TiffPage) -> bool:
    """Return whether libtiff, through Pillow, gives the right pixels of this kind."""
    if d.photometric in (CIELAB, 9):
        return d.compression in (1, *_IN_LIBTIFF)
    if d.photometric == YCBCR:
        return d.compression in _IN_LIBTIFF and d.bits == 8 and d.bands == 3 and not d.planar
    if d.photometric == RGB and page.is_jfif:  # libtiff takes its YCbCr for RGB
        return False
    if d.photometric == PALETTE:  # Pillow takes a map of 8-bit colours for a black one
        colours = page.colormap
        stored = d.bands == 1 and d.bits <= 8 and d.compression in (1, *_IN_LIBTIFF)
        return stored and colours is not None and colours.max() > 255
    if d.compression not in _IN_LIBTIFF or d.extra or 0 in page.databytecounts:
        return False
    if d.compression == 6:  # the JPEG says how it is stored
        return True
    if d.bits == 1:
        return d.bands == 1 and d.photometric in (MIN_IS_BLACK, MIN_IS_WHITE)
    usual = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, CMYK: 4}
    plain = d.bits == 8 and d.sample_format in (1, 4) and not d.planar
    return plain and usual.get(d.photometric) == d.bands


def _by_libtiff(
    data: bytes, d: Directory, max_pixels: int, rules: SampleRules
) -> tuple[Pixels, list[str | None]]:
    try:
        pixels, notes = decode_with_notes(data, "TIFF", max_pixels)
    except ImageError as error:
        if error.message.startswith("decoder error"):
            cause = f"a strip or tile is damaged or cut short (libtiff: {error.message})"
            raise ImageError(error.status, cause) from error
        raise
    bands = d.bands if d.photometric in (MIN_IS_BLACK, MIN_IS_WHITE) else 3
    return pick_bands(pixels, rules.bands, bands), notes


# --- all other kinds ------------------------------------------------------------------------------------


def _by_tifffile(
    data: bytes, page: tifffile.TiffPage, d: Directory, rules: SampleRules
) -> tuple[Pixels, list[str | None]]:
    """Decode with tifffile: (H, W, 3) uint8 RGB as stored, and warnings."""
    if page.dtype is None or (d.bits == 24 and d.sample_format != 3):  # tifffile misreads 24 bits
        kind = {2: "signed", 3: "float"}.get(d.sample_format, "unsigned")
        raise ImageError("undecodable", f"{kind} samples of {d.bits} bits: not supported")
    plan = plan_bands(d, rules)
    samples, note = read_samples(data, page, d, plan)
    colours = page.colormap if plan.photometric == PALETTE else None
    pixels, notes = to_rgb(samples, plan, d, rules, _declared(d, samples), colours)
    return pixels, [note, *plan.notes, *notes]


def _declared(d: Directory, samples: Samples) -> Declared | None:
    """Return the range that the tags declare, if it is smaller than the type of the samples."""
    if samples.dtype.kind not in "iu" or samples.dtype.itemsize == 1:
        return None
    signed = samples.dtype.kind == "i"
    for low_tag, high_tag, name in ((340, 341, "SMaxSampleValue"), (280, 281, "MaxSampleValue")):
        highs = d.values.get(high_tag)
        if highs and max(highs) < np.iinfo(samples.dtype).max:
            high = float(max(highs))
            low = float(min(d.values.get(low_tag) or (-high - 1 if signed else 0,)))
            if low < high:
                return Declared(low, high, name)
    if 8 < d.bits < 8 * samples.dtype.itemsize and not signed:
        return Declared(0, (1 << d.bits) - 1, f"BitsPerSample {d.bits}")
    return None
