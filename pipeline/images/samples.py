"""Turns samples of any depth into 8 bits, by one rule for all images of a run (docs/pixels.md).

    --range LOW HIGH                      where it is given
    the range that the file declares      PNG sBIT, TIFF MaxSampleValue, BitsPerSample 10, 12 or 14
    the range of the sample's type        uint16: 0..65535, int16: -32768..32767, floats: 0..1

LOW becomes black, HIGH becomes white, and what lies outside is cut. No range is taken from the samples of an
image, so that two images of a run are never scaled differently. A range that does not suit the samples gives
a warning with the range of the samples. Unsigned samples of up to 8 bits stay as they are, whatever the flag.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.images.guard import ImageError

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[Any]

THIN = 0.1
"""Share of the range below which a warning gives the range of the samples."""
_ROWS = 256
"""Rows that are scaled at once. In float64 the whole image would take eight times its size."""
_HINT = "--range LOW HIGH sets black and white"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRules:
    """The flags that say how samples become 8-bit RGB pixels. All None: the file and the type decide."""

    range: tuple[float, float] | None = None
    """--range: the samples that become black and white."""
    bands: tuple[int, int, int] | None = None
    """--bands: the bands that become red, green and blue, counted from 1."""

    def __post_init__(self) -> None:
        if self.range is not None:
            low, high = self.range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"range {low:g} {high:g}: expected two numbers, the smaller first. The first becomes"
                    " black, the second white."
                )
        if self.bands is not None and not all(1 <= band <= MOST_BANDS for band in self.bands):
            raise ValueError(
                f"bands {' '.join(map(str, self.bands))}: expected three numbers from 1 to"
                f" {MOST_BANDS}. The first band of a file is 1."
            )

    def replaced(
        self, range: tuple[float, float] | None, bands: tuple[int, int, int] | None
    ) -> SampleRules:
        """Return these rules with the values that are not None."""
        return SampleRules(range=range or self.range, bands=bands or self.bands)

    def described(self) -> dict[str, list[float] | list[int]]:
        """Return the entries of a checkpoint's `preprocessing`. None is left out, which means "as before"."""
        named = (("sample_range", self.range), ("bands", self.bands))
        return {name: list(value) for name, value in named if value is not None}

    @classmethod
    def of_checkpoint(cls, config: Mapping[str, Any]) -> SampleRules:
        """Read the rules that a detector was trained with from its config.json.

        Raises:
            ValueError: `preprocessing` holds other values than `described` writes.
        """
        stored = config.get("preprocessing") or {}
        return cls.of_json(stored.get("sample_range"), stored.get("bands"))

    @classmethod
    def of_json(cls, range: Any, bands: Any) -> SampleRules:
        """Make the rules from two lists as JSON holds them, or None. Raises ValueError if they are others."""
        try:
            limits = None if range is None else (float(range[0]), float(range[1]))
            chosen = None if bands is None else (int(bands[0]), int(bands[1]), int(bands[2]))
        except (TypeError, ValueError, LookupError) as error:
            given = f"range {range!r} and bands {bands!r}"
            raise ValueError(f"{given}: expected two and three numbers, or null") from error
        return cls(range=limits, bands=chosen)


MOST_BANDS = 4096
"""Bands of an image at most."""
NEUTRAL = SampleRules()


@dataclass(frozen=True, slots=True)
class Declared:
    """The samples that a file declares to be black and white."""

    low: float
    high: float
    by: str
    """What declares them, e.g. ``MaxSampleValue``."""


def to_8_bits(
    samples: Samples,
    rules: SampleRules = NEUTRAL,
    declared: Declared | None = None,
    of_type: Declared | None = None,
) -> tuple[Pixels, str | None]:
    """Scale samples to uint8 of the same shape.

    Args:
        samples: integers or floats, of any shape.
        rules: the flags; only `range` is used here.
        declared: the range that the file declares. It is ignored, with a warning, if a sample is outside.
        of_type: the range of the sample's type; None: that of the array's type.

    Returns:
        The pixels, and a warning or None.

    Raises:
        ImageError: `undecodable`: a sample is NaN or infinite.
    """
    if samples.dtype == np.uint8 and declared is None:
        return samples, None
    if samples.dtype == np.bool_:
        return samples.astype(np.uint8) * np.uint8(255), None
    seen = _seen(samples)
    note = None
    if rules.range is not None:
        low, high = rules.range
        if seen[1] <= low or seen[0] >= high:
            note = f"all samples ({_span(*seen)}) are outside --range {low:g} {high:g}"
        return scaled(samples, low, high), note
    if declared is not None and not declared.low <= seen[0] <= seen[1] <= declared.high:
        note = f"{declared.by} {_span(declared.low, declared.high)} ignored: samples are {_span(*seen)}"
        declared = None
    used = declared or of_type or Declared(*range_of_type(samples.dtype), samples.dtype.name)
    warnings = (note, _misfit(seen, used))
    return scaled(samples, used.low, used.high), "; ".join(w for w in warnings if w) or None


def check_bands(bands: tuple[int, int, int], num_bands: int) -> None:
    """Raise ImageError (`undecodable`) if an image of `num_bands` bands lacks one of --bands."""
    if max(bands) > num_bands:
        given = " ".join(map(str, bands))
        has = f"{num_bands} band{'s' if num_bands > 1 else ''}"
        raise ImageError("undecodable", f"--bands {given}: the image has {has}")


def pick_bands(pixels: Pixels, bands: tuple[int, int, int] | None, num_bands: int) -> Pixels:
    """Put the chosen bands of RGB pixels (H, W, 3) in the order red, green, blue.

    Args:
        pixels: decoded from a file that does not store other bands than these.
        bands: --bands, or None.
        num_bands: 3, or 1 for gray.

    Raises:
        ImageError: `undecodable`: the image has no such band.
    """
    if bands is None:
        return pixels
    check_bands(bands, num_bands)
    if bands == (1, 2, 3):
        return pixels
    return np.ascontiguousarray(pixels[:, :, [band - 1 for band in bands]])


def range_of_type(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the samples of a type that become black and white."""
    if dtype.kind == "f":
        return 0.0, 1.0
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def declared_bits(samples: Samples, bits: int, by: str) -> Declared | None:
    """Return the range of `bits` bits in a larger unsigned type, if the samples are stored in the low bits.

    The PNG standard wants the significant bits at the top: then the samples use the whole type, and nothing
    is declared. Microscopes and cameras write them at the bottom. Samples are at the bottom if all fit there
    and not all are multiples of the step between samples at the top.
    """
    if not 0 < bits < 8 * samples.dtype.itemsize or bits < 8:
        return None
    step = 1 << (8 * samples.dtype.itemsize - bits)
    if int(samples.max()) >= 1 << bits or not (samples % step).any():
        return None
    return Declared(0, (1 << bits) - 1, f"{by} {bits} bits")


def scaled(samples: Samples, low: float, high: float) -> Pixels:
    """Scale samples to uint8: `low` and less become 0, `high` and more become 255."""
    factor = 255 / (high - low)
    if samples.dtype == np.uint16 and (low, high) == (0, 65535):
        return _whole_16_bits(samples)
    if samples.dtype.itemsize <= 2 and samples.dtype.kind in "iu" and samples.size > 1 << 16:
        unsigned = np.dtype(f"u{samples.dtype.itemsize}")
        every = np.arange(1 << 8 * samples.dtype.itemsize).astype(unsigned).view(samples.dtype)
        return np.take(_linear(every, low, factor), samples.view(unsigned))
    result = np.empty(samples.shape, np.uint8)
    for row in range(0, len(samples), _ROWS):
        result[row : row + _ROWS] = _linear(samples[row : row + _ROWS], low, factor)
    return result


def _whole_16_bits(samples: Samples) -> Pixels:
    """Scale uint16 samples by 255 / 65535. In float32 this is exact, and twice as fast as a table."""
    result = np.empty(samples.shape, np.uint8)
    for row in range(0, len(samples), _ROWS // 16):
        part = samples[row : row + _ROWS // 16].astype(np.float32)
        part *= np.float32(255 / 65535)
        part += np.float32(0.5)
        result[row : row + _ROWS // 16] = part
    return result


def _linear(samples: Samples, low: float, factor: float) -> Pixels:
    values = (samples.astype(np.float64) - low) * factor
    return np.rint(values.clip(0, 255, out=values), out=values).astype(np.uint8)


def _seen(samples: Samples) -> tuple[float, float]:
    """Return the lowest and the highest sample."""
    low, high = float(samples.min()), float(samples.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int(samples.size - np.isfinite(samples).sum())
        cause = f"{bad} of {samples.size} samples are not finite (NaN or infinity)"
        raise ImageError("undecodable", cause)
    return low, high


def _misfit(seen: tuple[float, float], used: Declared) -> str | None:
    """Warn if the samples and the range that is used do not suit each other."""
    what, whole = f"samples are {_span(*seen)}", f"{_span(used.low, used.high)} ({used.by})"
    if seen[0] < used.low or seen[1] > used.high:
        return f"{what}, cut at {whole}; {_HINT}"
    if seen[1] - seen[0] < THIN * (used.high - used.low):
        return f"{what}, less than a tenth of {whole}; {_HINT}"
    if used.low < 0 <= seen[0]:
        return f"{what}, in the upper half of {whole}; {_HINT}"
    return None


def _span(low: float, high: float) -> str:
    return f"{_number(low)}..{_number(high)}"


def _number(value: float) -> str:
    return f"{int(value)}" if value == int(value) and abs(value) < 1e15 else f"{value:g}"
