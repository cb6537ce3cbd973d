"""The process behind the fence: it reads encoded bytes from stdin and writes pixels to stdout.

    request   max_pixels, whether only the size is wanted, format, --range or NaN twice, --bands or 0 three
              times, length (`REQUEST`), then the bytes
    reply     length of a JSON object (`LENGTH`), the object, then the pixels: height * width * 3 bytes

A first reply of length 0 says that the process is ready. When the process that started it ends, stdin ends,
and this process ends too. `pipeline.images.fence` starts it.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import struct
from typing import BinaryIO, cast

from pipeline.images.guard import Format, ImageError, is_deep
from pipeline.images.pillow import Decoded, decode_image, size_by_pillow
from pipeline.images.regions_child import serve_regions
from pipeline.images.samples import Pixels, SampleRules
from pipeline.runtime.child_process import LENGTH, limit_resources, open_pipes

REQUEST = struct.Struct("<Q?4sdd3HQ")
REGIONS = "PART"
"""Instead of a format: a TIFF of which parts are decoded. No bytes follow, see `regions_child`."""
TEXT_CHARACTERS = 500
"""Characters that are kept of an error or a warning."""


def serve(memory_bytes: int, seconds: int, threads: bool = False) -> None:
    """Answer requests until stdin ends.

    Args:
        memory_bytes: memory that the process may take in addition to what it has at its start.
        seconds: time limit for one request. Then the process ends itself, in case the process that started
            it is gone and cannot end it.
        threads: whether the process may start threads, and so child processes.
    """
    requests, replies = open_pipes()
    limit_resources(memory_bytes, threads)
    replies.write(LENGTH.pack(0))
    replies.flush()
    while head := requests.read(REQUEST.size):
        max_pixels, only_size, name, low, high, *bands, length = REQUEST.unpack(head)
        rules = SampleRules(
            range=None if math.isnan(low) else (low, high),
            bands=cast(tuple[int, int, int], tuple(bands)) if all(bands) else None,
        )
        if name.decode() == REGIONS:
            serve_regions(requests, replies, length, max_pixels, rules, seconds, _peak_bytes)
            continue
        data = requests.read(length)
        signal.alarm(seconds)
        format = cast(Format, name.decode().strip())
        reply, pixels = _answer(data, format, max_pixels, only_size, rules)
        signal.alarm(0)
        _write_reply(replies, reply | {"peak_bytes": _peak_bytes()}, pixels)


def request_head(
    format: str, length: int, max_pixels: int, only_size: bool, rules: SampleRules
) -> bytes:
    """Encode what comes before the bytes of an image."""
    low, high = rules.range or (math.nan, math.nan)
    bands = rules.bands or (0, 0, 0)
    return REQUEST.pack(max_pixels, only_size, format.encode().ljust(4), low, high, *bands, length)


def _answer(
    data: bytes, format: Format, max_pixels: int, only_size: bool, rules: SampleRules
) -> tuple[dict[str, object], Pixels | None]:
    try:
        if only_size:
            height, width = _size(data, format, max_pixels)
            return {"height": height, "width": width}, None
        image = _decode(data, format, max_pixels, rules)
    except ImageError as error:
        return {"status": error.status, "error": error.message[:TEXT_CHARACTERS]}, None
    height, width, _ = image.pixels.shape
    reply = {"height": height, "width": width, "lacks_end": image.lacks_end}
    return reply | {"warning": image.warning and image.warning[:TEXT_CHARACTERS]}, image.pixels


def _size(data: bytes, format: Format, max_pixels: int) -> tuple[int, int]:
    if format == "TIFF":
        from pipeline.images.tiff import size_of_tiff

        return size_of_tiff(data, max_pixels)
    return size_by_pillow(data, format, max_pixels)


def _decode(data: bytes, format: Format, max_pixels: int, rules: SampleRules) -> Decoded:
    """Decode one image. The modules of rare formats are imported when the first such image comes."""
    if format == "TIFF":
        from pipeline.images.tiff import decode_tiff

        return Decoded(*decode_tiff(data, max_pixels, rules))
    if is_deep(data, format):
        from pipeline.images.deep import decode_deep

        return Decoded(*decode_deep(data, format, max_pixels, rules))
    return decode_image(data, format, max_pixels, rules)


def _write_reply(replies: BinaryIO, reply: dict[str, object], pixels: Pixels | None) -> None:
    encoded = json.dumps(reply).encode()
    replies.write(LENGTH.pack(len(encoded)) + encoded)
    if pixels is not None:
        replies.write(pixels.data)
    replies.flush()


def _peak_bytes() -> int:
    """Return the largest memory that this process has used.

    getrusage would also count the memory that the parent had when it started this process.
    """
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(line.split()[1]) * 1024
