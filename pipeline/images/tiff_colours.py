"""Turns the samples of a TIFF into RGB: bands, alpha, palettes, inks and WhiteIsZero.

Legend: H and W height and width as stored, B the bands that are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.images.guard import ImageError
from pipeline.images.samples import (
    Declared,
    Pixels,
    SampleRules,
    Samples,
    check_bands,
    pick_bands,
    range_of_type,
    scaled,
    to_8_bits,
)
from pipeline.images.tiff_directory import Directory

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
"""PhotometricInterpretation."""
_MULTIPLIED, _ALPHA = 1, 2
"""ExtraSamples that are alpha: colours multiplied with it, or not."""
_APERIO_YCBCR = 33003
_GIVE_RGB = (6, 7, 34892, 34927, 50001, 50002, 52546)
"""Compressions whose decoders turn YCbCr into RGB: JPEG, WebP, JPEG XL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which bands of a picture are decoded, and what they are."""

    photometric: int
    bands: tuple[int, ...]
    """Bands to decode, from 0: the colours, then the alpha if there is one."""
    alpha: int = 0
    """0, or the kind of the alpha in the last of these bands."""
    notes: tuple[str, ...] = ()

    @property
    def num_colours(self) -> int:
        return len(self.bands) - bool(self.alpha)


def plan_bands(d: Directory, rules: SampleRules) -> Plan:
    """Choose the bands to decode.

    --bands chooses among the bands of gray and RGB pictures. Without it, the first band is gray, or the first
    three are red, green and blue. Another band is alpha only if it is tagged as alpha.

    Raises:
        ImageError: `undecodable`: the picture lacks a band.
    """
    photometric, notes = d.photometric, list[str]()
    if d.compression == _APERIO_YCBCR and d.bands == 3:  # whatever the tag says
        photometric = YCBCR
    elif photometric == YCBCR and d.compression in _GIVE_RGB and not d.planar:
        photometric = RGB
    if photometric < 0:
        photometric = RGB if d.bands - len(d.extra) == 3 else MIN_IS_BLACK
        notes.append(
            "no PhotometricInterpretation: taken as " + ("RGB" if photometric == RGB else "gray")
        )
    if photometric in (MIN_IS_WHITE, MIN_IS_BLACK, RGB) and rules.bands:
        check_bands(rules.bands, d.bands)
        return Plan(
            photometric=photometric,
            bands=tuple(band - 1 for band in rules.bands),
            notes=tuple(notes),
        )
    first_extra = d.bands - len(d.extra)
    alphas = [first_extra + n for n, kind in enumerate(d.extra) if kind in (_MULTIPLIED, _ALPHA)]
    rest = d.bands - len(alphas)
    colours = {RGB: 3, CMYK: 4, YCBCR: 3, PALETTE: 1}.get(photometric, 3 if rest >= 3 else 1)
    if rest < colours:
        raise ImageError(
            "undecodable", f"a TIFF of {colours} colours in {rest} bands: not supported"
        )
    ignored = rest - colours
    if photometric in (MIN_IS_WHITE, MIN_IS_BLACK) and colours == 3:
        notes.append(f"bands 1 2 3 of {d.bands} taken as RGB; --bands R G B chooses others")
    elif ignored:
        taken = "band 1" if colours == 1 else f"bands 1 to {colours}"
        notes.append(
            f"{taken} of {d.bands} taken, another is not tagged as alpha; --bands R G B chooses others"
        )
    bands = tuple(n for n in range(d.bands) if n not in alphas)[:colours]
    if not alphas:
        return Plan(photometric=photometric, bands=bands, notes=tuple(notes))
    kind = d.extra[alphas[0] - first_extra]
    return Plan(photometric=photometric, bands=(*bands, alphas[0]), alpha=kind, notes=tuple(notes))


def to_rgb(
    samples: Samples,
    plan: Plan,
    d: Directory,
    rules: SampleRules,
    declared: Declared | None,
    palette: Samples | None,
) -> tuple[Pixels, list[str | None]]:
    """Turn the samples (H, W, B) of the planned bands into RGB (H, W, 3), and give warnings."""
    if samples.dtype == np.bool_ and plan.photometric == PALETTE:
        samples = samples.astype(np.uint8)
    colours = samples[:, :, : plan.num_colours]
    note = None
    if plan.photometric == PALETTE:
        pixels = _mapped(colours[:, :, 0], palette)
    elif d.bits < 8:
        pixels = scaled(colours, 0, (1 << d.bits) - 1)
    else:
        pixels, note = to_8_bits(colours, rules, declared)
    if plan.photometric == MIN_IS_WHITE:
        pixels = 255 - pixels
    elif plan.photometric in (CMYK, YCBCR):
        mode = "CMYK" if plan.photometric == CMYK else "YCbCr"
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels), mode).convert("RGB"))
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    notes = [note]
    if plan.alpha:
        pixels, alpha_note = _on_white(pixels, _alpha(samples[:, :, -1], d, declared), plan)
        notes.append(alpha_note)
    if plan.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB):
        pixels = pick_bands(pixels, rules.bands, 3)
    return pixels, notes


def unpacked_ycbcr(
    data: bytes | memoryview, rows: int, columns: int, factors: tuple[int, ...]
) -> Pixels:
    """Unpack an uncompressed strip or tile of YCbCr with fewer samples of colour (TIFF 6.0, section 21).

    Args:
        data: for each block of pixels its Y samples, then one Cb and one Cr.
        rows, columns: size of the strip or tile.
        factors: columns and rows of a block.

    Returns:
        (rows, columns, 3) YCbCr.
    """
    across, down = (int(n) for n in factors[:2])
    if across not in (1, 2, 4) or down not in (1, 2, 4):
        raise ImageError("undecodable", f"blocks of {across} x {down} in YCbCr: not supported")
    if len(data) == 3 * rows * columns:  # some writers leave the tag out, and 2 x 2 is its default
        across = down = 1
    high, wide, size = -(-rows // down), -(-columns // across), across * down + 2
    if len(data) < high * wide * size:
        raise ImageError("undecodable", "a strip or tile has too few samples")
    blocks = np.frombuffer(data, np.uint8, high * wide * size).reshape(high, wide, size)
    luma = blocks[:, :, :-2].reshape(high, wide, down, across).transpose(0, 2, 1, 3)
    chroma = blocks[:, :, -2:].repeat(down, axis=0).repeat(across, axis=1)
    whole = np.dstack([luma.reshape(high * down, wide * across), chroma])
    return whole[:rows, :columns]


def _mapped(indices: Samples, palette: Samples | None) -> Pixels:
    """Look up palette indices (H, W). A map whose values are all below 256 holds 8-bit colours."""
    if palette is None or palette.ndim != 2 or indices.dtype.kind != "u":
        raise ImageError("undecodable", "a palette TIFF without a colour map")
    if int(indices.max()) >= palette.shape[1]:
        raise ImageError("undecodable", f"an index above the {palette.shape[1]} colours of its map")
    colours = palette.T.astype(np.uint8) if palette.max() < 256 else scaled(palette.T, 0, 65535)
    return np.ascontiguousarray(colours)[indices]


def _alpha(samples: Samples, d: Directory, declared: Declared | None) -> Pixels:
    """Scale alpha (H, W) to 8 bits. It uses its whole range, whatever --range says."""
    if samples.dtype == np.uint8 and d.bits == 8:
        return samples
    high = range_of_type(samples.dtype)[1] if d.bits >= 8 else float((1 << d.bits) - 1)
    return scaled(samples, 0, declared.high if declared else high)


def _on_white(pixels: Pixels, alpha: Pixels, plan: Plan) -> tuple[Pixels, str | None]:
    """Lay RGB (H, W, 3) on white by its alpha (H, W), unless that would hide the picture.

    An alpha keeps the picture if it has an opaque pixel, and not more pixels that are partly transparent than
    opaque ones. A band of near infrared that is tagged as alpha has few opaque pixels and many others.
    """
    opaque = int(np.count_nonzero(alpha == 255))
    partly = alpha.size - opaque - int(np.count_nonzero(alpha == 0))
    band = plan.bands[-1] + 1
    if opaque == 0 or partly > opaque:
        cause = f"{partly} pixels partly transparent and {opaque} opaque"
        return pixels, f"band {band} is tagged as alpha but not used as such: {cause}"
    if opaque == alpha.size:
        return pixels, None
    weight = alpha.astype(np.uint16)[:, :, None]
    colour = pixels.astype(np.uint16)
    if plan.alpha == _ALPHA:
        colour = (colour * weight + 127) // 255
    return np.minimum(colour + (255 - weight), 255).astype(np.uint8), None
