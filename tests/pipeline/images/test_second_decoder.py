"""Every unusual TIFF, PNG and PPM gives the pixels that a second decoder gives, brought to 8 bits with NumPy.

Each file names the decoder that is right for it. OpenCV and Pillow both use libtiff, but they fail for
different kinds: OpenCV reads no planes of 16 bits and no half floats, Pillow no colours of more than 8 bits.
Where both fail, tifffile reads the samples. Bands, alpha, palettes and ranges are then written out here.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pipeline.images import decode
from tests.pipeline.hostile_bytes import chunk, png
from tests.pipeline.tiff_bytes import (
    ALPHA,
    CMYK,
    MULTIPLIED,
    PALETTE,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    YCBCR,
    Page,
    write_tiff,
)

Array = NDArray[Any]
Decoder = Literal["OpenCV", "Pillow", "tifffile"]
HEIGHT, WIDTH = 37, 53
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
GRAY: Array = (X * 255 // (WIDTH - 1)).astype(np.uint8)
COLOURS: Array = np.stack(
    [GRAY, Y * 255 // (HEIGHT - 1), 255 - (X + Y) * 255 // (WIDTH + HEIGHT - 2)], axis=2
).astype(np.uint8)
OPAQUE: Array = np.where(X < 30, 255, 0).astype(np.uint8)
ORDERS = {"little-endian": "<", "big-endian": ">"}


@dataclass(frozen=True)
class Kind:
    """One file, the decoder that reads its samples, and what a viewer shows of these."""

    name: str
    data: bytes
    by: Decoder
    shown: Callable[[Array], Array]
    tolerance: int = 1


def stretched(pixels: Array, dtype: str) -> Array:
    """Make samples that use the whole range of a type."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (pixels / 255).astype(kind)
    limits = np.iinfo(kind)
    values = limits.min + pixels.astype(np.float64) / 255 * (float(limits.max) - limits.min)
    return np.rint(values).clip(limits.min, limits.max).astype(kind)


def to_bytes(samples: Array, high: float | None = None, low: float = 0) -> Array:
    """Scale samples to 0..255 by the range of their type, or by `low` and `high`."""
    if samples.dtype == np.bool_:
        return samples.astype(np.uint8) * 255
    if high is None and samples.dtype.kind == "f":
        high = 1
    elif high is None:
        low, high = float(np.iinfo(samples.dtype).min), float(np.iinfo(samples.dtype).max)
    return np.rint((samples.astype(np.float64) - low) * 255 / (high - low))


def rgb(pixels: Array) -> Array:
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels[:, :, :3]


def plain(samples: Array) -> Array:
    return rgb(to_bytes(samples))


def inverted(samples: Array) -> Array:
    return 255 - plain(samples)


def of_bits(bits: int, *, white_is_zero: bool = False) -> Callable[[Array], Array]:
    def shown(samples: Array) -> Array:
        pixels = rgb(to_bytes(samples, (1 << bits) - 1))
        return 255 - pixels if white_is_zero else pixels

    return shown


def on_white(samples: Array) -> Array:
    """Lay colours on white by the alpha behind them."""
    pixels = to_bytes(samples)
    alpha = pixels[:, :, -1:] / 255
    return rgb(
        (pixels[:, :, :-1] * alpha + 255 * (1 - alpha)).repeat(3 // (pixels.shape[2] - 1), 2)
    )


def on_white_multiplied(samples: Array) -> Array:
    pixels = to_bytes(samples)
    return pixels[:, :, :3] + 255 - pixels[:, :, 3:]


def by_opencv(data: bytes) -> Array:
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert samples is not None
    return samples if samples.ndim == 2 else samples[:, :, [2, 1, 0, 3][: samples.shape[2]]]


def by_pillow(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        convert = image.mode in ("P", "CMYK", "YCbCr", "1")
        return np.asarray(image.convert("RGB") if convert else image)


def by_tifffile(data: bytes) -> Array:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        samples: Array = page.asarray(maxworkers=1)
        return np.moveaxis(samples, 0, -1) if page.planarconfig == 2 else samples


DECODERS: dict[Decoder, Callable[[bytes], Array]] = {
    "OpenCV": by_opencv,
    "Pillow": by_pillow,
    "tifffile": by_tifffile,
}


def depths() -> Iterator[Kind]:
    """Make every type of sample, in both byte orders."""
    for name, order in ORDERS.items():
        for dtype in ("u2", "u4", "i1", "i2", "i4", "f4", "f8"):
            data = write_tiff(Page(samples=stretched(COLOURS, dtype)), order=order)
            yield Kind(f"TIFF colours {dtype} {name}", data, "OpenCV", plain)
            page = Page(samples=stretched(GRAY, dtype), photometric=WHITE_IS_ZERO)
            data = write_tiff(page, order=order)
            # OpenCV has inverted signed bytes already
            by: Decoder = "tifffile" if dtype == "i1" else "OpenCV"
            yield Kind(f"TIFF white is zero {dtype} {name}", data, by, inverted)
        data = write_tiff(Page(samples=stretched(GRAY, "f2")), order=order)
        yield Kind(f"TIFF gray f2 {name}", data, "tifffile", plain)
        for bits in (10, 12, 14):
            page = Page(samples=(COLOURS.astype(np.uint16) << bits - 8) + 3, bits=bits)
            yield Kind(
                f"TIFF colours of {bits} bits {name}",
                write_tiff(page, order=order),
                "OpenCV",
                # OpenCV moves the bits to the top of 16
                lambda samples, bits=bits: of_bits(bits)(samples >> 16 - bits),
            )
    for bits in (2, 4):
        samples = GRAY >> 8 - bits
        data = write_tiff(Page(samples=samples, bits=bits))
        yield Kind(f"TIFF gray of {bits} bits", data, "Pillow", plain)
        data = write_tiff(Page(samples=samples, bits=bits, photometric=WHITE_IS_ZERO))
        yield Kind(f"TIFF white is zero of {bits} bits", data, "Pillow", plain)
    bilevel = (GRAY > 99).astype(np.uint8)
    data = write_tiff(Page(samples=bilevel, bits=1, photometric=WHITE_IS_ZERO))
    yield Kind("TIFF white is zero of 1 bit", data, "OpenCV", plain)
    data = write_tiff(Page(samples=(COLOURS > 99).astype(np.uint8), bits=1))
    yield Kind("TIFF colours of 1 bit", data, "tifffile", plain)
    declared = stretched(COLOURS, "u2") >> 4
    data = write_tiff(Page(samples=declared, tags={281: (3, [4095] * 3)}))
    yield Kind("TIFF MaxSampleValue 4095", data, "OpenCV", of_bits(12))


def layouts() -> Iterator[Kind]:
    """Make planes, tiles, strips and BigTIFFs."""
    for dtype in ("u2", "f4", "u4"):
        samples = stretched(COLOURS, dtype)
        for name, order in ORDERS.items():
            data = write_tiff(Page(samples=samples, planar=True, rows_per_strip=10), order=order)
            yield Kind(f"TIFF planes {dtype} {name}", data, "tifffile", plain)
        data = write_tiff(Page(samples=samples, planar=True, tile=16), big=True)
        yield Kind(f"BigTIFF tiles in planes {dtype}", data, "tifffile", plain)
        data = write_tiff(Page(samples=samples, tile=16), order=">")
        yield Kind(f"TIFF tiles {dtype}", data, "OpenCV", plain)
    data = write_tiff(Page(samples=COLOURS, planar=True, rows_per_strip=7))
    yield Kind("TIFF planes u1", data, "OpenCV", plain)
    reverse = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
    page = Page(samples=COLOURS, pack=lambda data, _: data.translate(reverse), tags={266: (3, [2])})
    yield Kind("TIFF FillOrder 2", write_tiff(page), "Pillow", plain)
    for orientation in range(2, 9):
        page = Page(samples=stretched(COLOURS, "u2"), tags={274: (3, [orientation])})
        yield Kind(f"TIFF u2 orientation {orientation}", write_tiff(page), "OpenCV", plain)
    thumbnail = Page(
        samples=COLOURS[::4, ::4], tags={254: (4, [1])}, inside=(Page(samples=COLOURS),)
    )
    yield Kind("TIFF thumbnail first", write_tiff(thumbnail), "tifffile", lambda _: COLOURS)


def compressions() -> Iterator[Kind]:
    """Make every compression, most with a predictor."""
    for dtype, by in (("u2", "Pillow"), ("f4", "tifffile")):
        packs: dict[int, Callable[[bytes], bytes]] = {
            50000: imagecodecs.zstd_encode,
            34925: imagecodecs.lzma_encode,
        }
        for number, pack in packs.items():
            page = Page(
                samples=stretched(COLOURS, dtype),
                compression=number,
                pack=lambda data, _, pack=pack: pack(data),
                rows_per_strip=9,
            )
            yield Kind(f"TIFF compression {number} {dtype}", write_tiff(page), by, plain)
    for dtype in ("u1", "u2", "u4", "f4", "f8"):
        for codec, tile in (("zlib", (32, 32)), ("lzw", None)):
            options = {"compression": codec, "predictor": True, "tile": tile}
            data = by_writer(stretched(COLOURS, dtype), byteorder=">", **options)
            yield Kind(f"TIFF {codec} with predictor {dtype}", data, "OpenCV", plain)
    data = by_writer(stretched(COLOURS, "f2"), compression="zstd", predictor=True)
    yield Kind("TIFF zstd with predictor f2", data, "tifffile", plain)
    exact = {"lossless": True}
    for codec, dtype, options in (
        ("lerc", "u2", {}), ("lerc", "f4", {}), ("png", "u2", {}), ("webp", "u1", exact),
        ("jpeg2000", "u1", {"reversible": True}), ("jpeg2000", "u2", {"reversible": True}),
        ("jpegxl", "u1", exact), ("jpegxl", "u2", exact), ("jpegxr", "u2", {}),
    ):  # fmt: skip
        data = by_writer(
            stretched(COLOURS, dtype), compression=codec, compressionargs=options, tile=(32, 32)
        )
        yield Kind(f"TIFF {codec} {dtype}", data, "tifffile", plain)
    bilevel = Image.fromarray(GRAY > 127)
    for codec in ("group3", "group4", "tiff_ccitt", "packbits"):
        sink = io.BytesIO()
        bilevel.save(sink, "TIFF", compression=codec)
        yield Kind(f"TIFF {codec}", sink.getvalue(), "OpenCV", plain)


def by_writer(samples: Array, **options: Any) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, samples, photometric="rgb", **options)
    return sink.getvalue()


def jpegs() -> Iterator[Kind]:
    """Make JPEG and YCbCr in TIFF."""
    picture = Image.fromarray(COLOURS).resize((64, 48))
    ycbcr = np.asarray(picture.convert("YCbCr"))
    for factors in ((1, 1), (2, 1), (2, 2)):
        data = by_writer(
            np.asarray(picture), compression="jpeg", subsampling=factors, tile=(32, 32)
        )
        yield Kind(f"TIFF JPEG tiles {factors}", data, "Pillow", plain)
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", subsampling={(1, 1): 0, (2, 1): 1, (2, 2): 2}[factors])
        page = Page(
            samples=ycbcr,
            photometric=YCBCR,
            compression=6,
            pack=lambda _, __, jpeg=jpeg: jpeg.getvalue(),
            tags={530: (3, factors), 513: (4, [8]), 514: (4, [len(jpeg.getvalue())])},
        )
        yield Kind(f"TIFF old JPEG {factors}", write_tiff(page), "Pillow", plain)
    for kind in ("L", "CMYK"):
        sink = io.BytesIO()
        picture.convert(kind).save(sink, "TIFF", compression="jpeg", quality=90)
        yield Kind(f"TIFF JPEG {kind}", sink.getvalue(), "Pillow", plain)
    page = Page(
        samples=stretched(COLOURS, "u2") >> 4,
        bits=12,
        compression=7,
        pack=lambda data, shape: imagecodecs.jpeg_encode(
            twelve_bits(data, shape),
            level=95,
            bitspersample=12,
            colorspace="rgb",
            outcolorspace="rgb",
        ),
    )
    yield Kind("TIFF JPEG of 12 bits", write_tiff(page), "tifffile", of_bits(12))
    for factors in ((2, 2), (4, 1)):
        page = Page(
            samples=ycbcr,
            photometric=YCBCR,
            compression=8,
            pack=lambda _, __, factors=factors: zlib.compress(subsampled(ycbcr, *factors)),
            tags={530: (3, factors)},
        )
        yield Kind(f"TIFF YCbCr {factors} deflate", write_tiff(page), "Pillow", plain)
        page = Page(
            samples=ycbcr,
            photometric=YCBCR,
            pack=lambda _, __, factors=factors: subsampled(ycbcr, *factors),
            tags={530: (3, factors)},
        )
        yield Kind(f"TIFF YCbCr {factors} uncompressed", write_tiff(page), "OpenCV", plain, 2)


def twelve_bits(data: bytes, shape: tuple[int, ...]) -> Array:
    """Unpack what the writer packed."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8).reshape(shape[0], -1), axis=1)
    samples = bits[:, : shape[1] * shape[2] * 12].reshape(*shape, 12)
    return (samples @ (1 << np.arange(11, -1, -1))).astype(np.uint16)


def subsampled(ycbcr: Array, across: int, down: int) -> bytes:
    """Lay out YCbCr as TIFF does: the Y samples of a block, then its Cb and Cr."""
    height, width, _ = ycbcr.shape
    blocks = ycbcr.reshape(height // down, down, width // across, across, 3).swapaxes(1, 2)
    luma = blocks[..., 0].reshape(height // down, width // across, -1)
    chroma = blocks[..., 1:].mean(axis=(2, 3)).astype(np.uint8)
    return np.concatenate([luma, chroma], axis=2).tobytes()


def bands() -> Iterator[Kind]:
    """Make alpha, further bands, inks and palettes."""
    for dtype in ("u1", "u2"):
        rgba = stretched(np.dstack([COLOURS, OPAQUE]), dtype)
        multiplied = stretched(np.dstack([COLOURS * (OPAQUE[:, :, None] > 0), OPAQUE]), dtype)
        la = stretched(np.dstack([GRAY, OPAQUE]), dtype)
        five = stretched(np.dstack([COLOURS, GRAY, GRAY]), dtype)
        inks = stretched(np.asarray(Image.fromarray(COLOURS).convert("CMYK")), dtype)
        for name, page, shown in (
            ("alpha", Page(samples=rgba, extra=(ALPHA,)), on_white),
            ("alpha in planes", Page(samples=rgba, extra=(ALPHA,), planar=True), on_white),
            (
                "multiplied alpha",
                Page(samples=multiplied, extra=(MULTIPLIED,)),
                on_white_multiplied,
            ),
            ("gray and alpha", Page(samples=la, extra=(ALPHA,)), on_white),
            ("a fourth band", Page(samples=rgba, extra=(UNSPECIFIED,)), plain),
            ("five bands", Page(samples=five, extra=(0, 0)), plain),
            ("five gray bands", Page(samples=five, extra=(0,) * 4, photometric=1), plain),
            ("inks", Page(samples=inks, photometric=CMYK), by_inks),
        ):
            yield Kind(f"TIFF {name} {dtype}", write_tiff(page, order=">"), "tifffile", shown)
    for bits, by in (
        (1, "tifffile"),
        (2, "tifffile"),
        (4, "OpenCV"),
        (8, "OpenCV"),
        (16, "tifffile"),
    ):
        index = (GRAY >> max(0, 8 - bits)).astype(np.uint16 if bits > 8 else np.uint8)
        colour_map = np.random.default_rng(bits).integers(0, 256, (3, 1 << bits))
        colour_map[0, 0] = 255
        for scale in (1, 257):
            data = write_tiff(
                Page(
                    samples=index,
                    bits=bits,
                    photometric=PALETTE,
                    tags={320: (3, (colour_map * scale).ravel().tolist())},
                )
            )
            looked_up = mapped_by(colour_map) if by == "tifffile" else plain
            yield Kind(f"TIFF palette of {bits} bits, map x{scale}", data, by, looked_up)


def by_inks(samples: Array) -> Array:
    inks = np.ascontiguousarray(to_bytes(samples).astype(np.uint8))
    return np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))


def mapped_by(colour_map: Array) -> Callable[[Array], Array]:
    return lambda indices: colour_map.T[indices.astype(int)]


def pngs() -> Iterator[Kind]:
    """Make PNGs of every depth, and PPMs of 16 bits."""
    deep = stretched(COLOURS, "u2")
    twelve = GRAY.astype(np.uint16) * 16 + 5
    alpha = stretched(OPAQUE, "u2")
    for name, samples, colour, shown in (
        ("gray", stretched(GRAY, "u2"), 0, plain),
        ("colours", deep, 2, plain),
        ("alpha", np.dstack([deep, alpha]), 6, on_white),
    ):
        for interlace in (0, 1):
            data = deep_png(samples, colour, interlace=interlace)
            yield Kind(f"PNG 16 {name} interlace {interlace}", data, "OpenCV", shown)
    data = deep_png(np.dstack([stretched(GRAY, "u2"), alpha]), 4)
    yield Kind("PNG 16 gray and alpha", data, "OpenCV", on_white)
    data = deep_png(twelve, 0, extra=chunk(b"sBIT", b"\x0c"))
    yield Kind("PNG 16 gray sBIT 12", data, "OpenCV", of_bits(12))
    data = deep_png(deep >> 4, 2, extra=chunk(b"sBIT", b"\x0c\x0c\x0c"))
    yield Kind("PNG 16 colours sBIT 12", data, "OpenCV", of_bits(12))
    data = deep_png(twelve << 4, 0, extra=chunk(b"sBIT", b"\x0c"))
    yield Kind("PNG 16 gray sBIT 12 at the top, as the standard says", data, "OpenCV", plain)
    for depth in (1, 2, 4):
        packed = np.packbits(
            np.unpackbits((GRAY >> 8 - depth)[:, :, None], axis=2)[:, :, 8 - depth :].reshape(
                HEIGHT, -1
            ),
            axis=1,
        )
        rows = b"".join(b"\0" + row.tobytes() for row in packed)
        data = png(WIDTH, HEIGHT, depth=depth, colour=0, rows=rows)
        yield Kind(f"PNG gray of {depth} bits", data, "OpenCV", plain)
        palette = chunk(b"PLTE", np.random.default_rng(0).bytes(3 << depth))
        data = png(WIDTH, HEIGHT, depth=depth, colour=3, rows=rows, extra=palette)
        yield Kind(f"PNG palette of {depth} bits", data, "OpenCV", plain)
    for kind, samples, mode in (("6", deep, plain), ("5", stretched(GRAY, "u2"), plain)):
        head = f"P{kind} {WIDTH} {HEIGHT}\n# a comment\n65535\n".encode()
        data = head + samples.astype(">u2").tobytes()
        yield Kind(f"P{kind} of 16 bits", data, "OpenCV", mode)


def deep_png(samples: Array, colour: int, *, extra: bytes = b"", interlace: int = 0) -> bytes:
    """Make a PNG of 16 bits; interlaced by Adam7 if asked."""
    passes = [(0, 0, 1, 1)]
    if interlace:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
        ]
        passes.append((1, 0, 2, 1))
    parts = [samples[top::down, left::across] for top, left, down, across in passes]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts for row in part)
    height, width = samples.shape[:2]
    return png(width, height, depth=16, colour=colour, rows=rows, extra=extra, interlace=interlace)


KINDS = [kind for group in (depths, layouts, compressions, jpegs, bands, pngs) for kind in group()]


def test_there_are_enough_kinds() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 120


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name} by {kind.by}")
def test_the_pixels_are_those_of_a_second_decoder(kind: Kind) -> None:
    expected = kind.shown(DECODERS[kind.by](kind.data))
    pixels = decode(kind.data).pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(float) - expected).max() <= kind.tolerance
    assert np.ptp(pixels) > 100  # both decoders show a picture
