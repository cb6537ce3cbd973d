"""The process behind the fence: takes encoded bytes on stdin, gives pixels on stdout, has nothing else.

    request   max_pixels, whether only the size, format, length (`REQUEST`), then the bytes
    reply     length of a JSON object (`LENGTH`), the object, then the pixels: height * width * 3 bytes

It begins with a reply of no length: it is ready. It sees the end of its stdin when its owner is gone, and
ends too. `pipeline.images.fence` starts it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
from typing import BinaryIO, cast

from pipeline.images.guard import Format, ImageError
from pipeline.images.pillow import Pixels, decode_by_pillow, size_by_pillow

REQUEST = struct.Struct("<Q?4sQ")
LENGTH = struct.Struct("<I")


def serve(memory_bytes: int, seconds: int) -> None:
    """Answer requests until stdin ends.

    Args:
        memory_bytes: what it may take on top of what it has at its start.
        seconds: of one request, after which it ends itself, should its owner be gone before it could.
    """
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # libraries print what they like
        os.dup2(nothing, descriptor)
    _limit(memory_bytes)
    replies.write(LENGTH.pack(0))
    replies.flush()
    while head := requests.read(REQUEST.size):
        max_pixels, only_size, name, length = REQUEST.unpack(head)
        data = requests.read(length)
        signal.alarm(seconds)
        reply, pixels = _answer(data, cast(Format, name.decode().strip()), max_pixels, only_size)
        signal.alarm(0)
        _send(replies, reply | {"peak_bytes": _peak_bytes()}, pixels)


def _answer(
    data: bytes, format: Format, max_pixels: int, only_size: bool
) -> tuple[dict[str, object], Pixels | None]:
    try:
        if only_size:
            height, width = size_by_pillow(data, format, max_pixels)
            return {"height": height, "width": width}, None
        pixels, warning = decode_by_pillow(data, format, max_pixels)
    except ImageError as error:
        return {"status": error.status, "error": error.message}, None
    return {"height": len(pixels), "width": pixels.shape[1], "warning": warning}, pixels


def _send(replies: BinaryIO, reply: dict[str, object], pixels: Pixels | None) -> None:
    encoded = json.dumps(reply).encode()
    replies.write(LENGTH.pack(len(encoded)) + encoded)
    if pixels is not None:
        replies.write(pixels.data)
    replies.flush()


def _limit(memory_bytes: int) -> None:
    """No more memory than told, no core files, no files written, no further processes."""
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    try:
        with open("/proc/self/statm") as statm:
            here = int(statm.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return  # not Linux: other kernels do not obey the next limit
    resource.setrlimit(resource.RLIMIT_AS, (here + memory_bytes,) * 2)


def _peak_bytes() -> int:
    """Most memory this process ever had (getrusage's counts what its parent had when it was made)."""
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(line.split()[1]) * 1024
