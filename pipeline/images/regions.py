"""Images that are too large to be decoded whole: parts of them are decoded, behind the fence.

    has_parts(data, ...)       whether parts of an image can be decoded alone
    stored_parts(uri, ...)     the same of an object of a storage, of which few bytes are read
    open_regions(data, ...)    the image, of which windows are read

The encoded bytes are in memory, or in a storage (`StoredBytes`): then only the bytes of the parts are read.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.errors import one_line
from pipeline.images.fence import Fence, fence
from pipeline.images.fence_child import REGIONS, TEXT_CHARACTERS, request_head
from pipeline.images.fence_process import FenceProcess
from pipeline.images.guard import ImageError, sniff
from pipeline.images.regions_child import COMMAND, RESIZED, WINDOW
from pipeline.images.samples import NEUTRAL, Pixels, SampleRules
from pipeline.images.tiff_directory import Data, find_picture, read_directories
from pipeline.images.tiff_layout import whole_only
from pipeline.runtime.child_process import DiedError, TookTooLongError

BLOCK_BYTES = 4 * 2**20
"""Bytes of one request to the storage."""
HEAD_BYTES = 64
"""Bytes that show the format of a file."""
_DIRECTORY_BYTES = 2**16
"""Bytes of one request where directories are read."""
BLOCKS = 8
"""Blocks that are kept: strips and tiles that follow each other in the image mostly do so in the file."""
_MOST_NEEDED = 256 * 2**20
"""Bytes that the decoding process may ask for at once."""


class StoredBytes:
    """The bytes of an object of a storage. They are read block by block, when they are asked for.

    Args:
        uri: the object.
        size: its bytes.
        etag: the ETag that it must still have at each read.
        access: what may be read.
        block_bytes: bytes of one request.
    """

    def __init__(
        self,
        uri: str,
        size: int,
        etag: str | None,
        access: storage.Access = storage.OPEN,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._uri, self._size, self._etag, self._access = uri, size, etag, access
        self._each = block_bytes
        self._blocks = OrderedDict[int, bytes]()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        """Read some bytes. Raises `StorageError`."""
        first, last, _ = part.indices(self._size)
        if last <= first:
            return b""
        numbers = range(first // self._each, (last - 1) // self._each + 1)
        joined = b"".join(map(self._block, numbers))
        start = first - numbers[0] * self._each
        return joined[start : start + last - first]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            first = number * self._each
            length = min(self._each, self._size - first)
            self._blocks[number] = storage.read_range(
                self._uri, first=first, length=length, etag=self._etag, access=self._access
            )
            if len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]


def is_tiff(data: Data) -> bool:
    """Whether the bytes begin as a TIFF file does. Other formats are always decoded whole."""
    try:
        return sniff(data[:HEAD_BYTES]) == "TIFF"
    except ImageError:
        return False


def has_parts(data: Data, max_pixels: int, *, only_larger: bool = True) -> bool:
    """Whether parts of an image can be decoded alone.

    Args:
        data: the encoded bytes.
        max_pixels: pixels that may be decoded at once.
        only_larger: answer False for an image that may be decoded whole.

    Raises:
        StorageError: the bytes cannot be read.
    """
    if not is_tiff(data):
        return False
    try:
        directories, _ = read_directories(data)
        directory, _ = find_picture(directories)
    except ImageError:
        return False
    if only_larger and directory.height * directory.width <= max_pixels:
        return False
    return whole_only(directories, max_pixels) is None


def stored_parts(
    uri: str,
    size: int,
    etag: str | None,
    max_pixels: int,
    *,
    only_larger: bool = True,
    access: storage.Access = storage.OPEN,
) -> StoredBytes | None:
    """Return the bytes of an object if its parts can be decoded alone, else None; see `has_parts`.

    The first bytes and the directories are read for the answer.

    Raises:
        StorageError: the object cannot be read.
    """
    if not storage.gives_ranges(uri, access):
        return None
    stored = partial(StoredBytes, uri, size, etag, access)
    if is_tiff(stored(block_bytes=HEAD_BYTES)) and has_parts(
        stored(block_bytes=_DIRECTORY_BYTES), max_pixels, only_larger=only_larger
    ):
        return stored()
    return None


class RegionImage:
    """An image of which parts are decoded. `open_regions` makes it.

    Args:
        child: the process that decodes.
        data: the encoded bytes.
        seconds: time limit for so many pixels as the second number says, without the time to read bytes.
    """

    def __init__(
        self, child: FenceProcess, data: Data, head: bytes, seconds: tuple[float, int]
    ) -> None:
        self._child, self._data, self._seconds = child, data, seconds
        reply = self._ask(head, 0)
        self.size: tuple[int, int] = (_number(reply, "height"), _number(reply, "width"))
        """(height, width) of the upright image."""
        warning = reply.get("warning")
        self.warning = None if warning is None else one_line(str(warning))[:TEXT_CHARACTERS]
        """What a careful user should know although the image can be decoded."""

    def read(self, window: tuple[int, int, int, int]) -> Pixels:
        """Decode a window (x1, y1, x2, y2) of the upright image: (h, w, 3) uint8 RGB.

        Raises:
            ImageError: a part is damaged, or took too long.
            StorageError: the bytes cannot be read.
        """
        size = window[3] - window[1], window[2] - window[0]
        samples = self._part(COMMAND.pack(WINDOW, *window), size, 1, size[0] * size[1])
        return np.frombuffer(samples, np.uint8).reshape(*size, 3)

    def resized(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Resize the image as `fastrcnn.transform` does: (h, w, 3) float32, values from 0 to 255.

        Raises:
            ImageError, StorageError: as `read`.
        """
        command = COMMAND.pack(RESIZED, *size, 0, 0)
        samples = self._part(command, size, 4, self.size[0] * self.size[1])
        return np.frombuffer(samples, np.float32).reshape(*size, 3)

    def _part(
        self, command: bytes, size: tuple[int, int], bytes_each: int, pixels: int
    ) -> bytearray:
        """Ask for a part of `size`, for which so many pixels are decoded."""
        reply = self._ask(command, pixels)
        with _failures(self._limit(0)):
            if (reply.get("height"), reply.get("width")) != size:
                raise DiedError("its decoding process gave a part of another size")
            deadline = time.monotonic() + self._limit(0)
            return self._child.receive(size[0] * size[1] * 3 * bytes_each, deadline)

    def _limit(self, pixels: int) -> float:
        """Return the time limit for decoding so many pixels."""
        seconds, of_pixels = self._seconds
        return seconds * max(1.0, pixels / of_pixels)

    def _ask(self, message: bytes, pixels: int) -> dict[str, Any]:
        """Send a message, give the process the bytes that it needs, and return its reply.

        The time to read bytes does not count.
        """
        deadline = time.monotonic() + self._limit(pixels)
        with _failures(self._limit(pixels)):
            self._child.send(message, deadline)
            while "need" in (reply := self._child.receive_json(deadline)):
                began = time.monotonic()
                data = self._needed(reply["need"])
                deadline += time.monotonic() - began
                self._child.send(data, deadline)
        if reply.get("status") in ("undecodable", "too_large"):
            raise ImageError(reply["status"], one_line(str(reply["error"]))[:TEXT_CHARACTERS])
        return reply

    def _needed(self, need: object) -> bytes:
        """Read the bytes that the process asks for. It is not trusted."""
        match need:
            case [int(first), int(length)] if (
                0 <= first and 0 <= length <= _MOST_NEEDED and first + length <= len(self._data)
            ):
                return self._data[first : first + length]
        raise DiedError("its decoding process asked for bytes that the file does not have")


@contextmanager
def _failures(seconds: float) -> Iterator[None]:
    """Turn the exceptions of a process into `ImageError`."""
    try:
        yield
    except TookTooLongError as error:
        raise ImageError("failed", f"decoding a part took more than {seconds:g} s") from error
    except DiedError as error:
        raise ImageError("failed", str(error)) from error


def _number(reply: dict[str, Any], name: str) -> int:
    number = reply.get(name)
    if not isinstance(number, int) or not 1 <= number < 2**31:
        raise ImageError("failed", f"its decoding process gave an invalid reply ({name})")
    return number


@contextmanager
def open_regions(
    data: Data, *, max_pixels: int, rules: SampleRules = NEUTRAL, pool: Fence | None = None
) -> Iterator[RegionImage]:
    """Open an image of which parts are decoded: a TIFF (docs/tiles.md says which).

    Args:
        data: the encoded bytes.
        max_pixels: pixels that may be decoded at once. The image may have 10 times as many.
        rules: the flags --range and --bands.
        pool: limits the number of processes. None: the one of this process.

    Raises:
        ImageError: `undecodable`, `too_large` (no parts can be decoded alone, or too many pixels) or
            `failed`.
        StorageError: the bytes cannot be read.
    """
    head = request_head(REGIONS, len(data), max_pixels, False, rules)
    with (pool or fence()).process(max_pixels) as (child, limits):
        yield RegionImage(child, data, head, limits)
