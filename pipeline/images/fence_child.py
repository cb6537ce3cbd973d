"""The process behind the fence: it reads encoded bytes from stdin and writes pixels to stdout.

    request   max_pixels, whether only the size is wanted, format, length (`REQUEST`), then the bytes
    reply     length of a JSON object (`LENGTH`), the object, then the pixels: height * width * 3 bytes

A first reply of length 0 says that the process is ready. When the process that started it ends, stdin ends,
and this process ends too. `pipeline.images.fence` starts it.
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
        memory_bytes: memory that the process may take in addition to what it has at its start.
        seconds: time limit for one request. Then the process ends itself, in case the process that started
            it is gone and cannot end it.
    """
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # what a library prints must not get into the replies
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
    """Limit the memory of this process; forbid core files, written files and child processes."""
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    try:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return  # not Linux: other kernels ignore the next limit
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes,) * 2)


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
