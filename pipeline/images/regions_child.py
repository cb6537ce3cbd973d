"""The part of the fenced process that decodes parts of an image, as long as the other side asks for them.

    begin     a message with height, width and a warning
    command   a letter and four numbers (`COMMAND`): a window, or the whole image resized
    reply     a message; for a part, then its samples: height * width * 3, of one or four bytes

A message is a JSON object after its length. This process has no file. When it needs bytes of the encoded
image, it sends a message `need` with the first byte and the number of bytes, and gets so many.
"""

from __future__ import annotations

import io
import json
import signal
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipeline.images.guard import ImageError
from pipeline.images.samples import SampleRules
from pipeline.runtime.child_process import LENGTH

if TYPE_CHECKING:
    from pipeline.images.tiff_regions import TiffRegions

COMMAND = struct.Struct("<c4Q")
WINDOW, RESIZED = b"w", b"r"
_BUFFER = 2**16
"""Bytes that are asked for at once where the directories are read."""


class RemoteFile(io.RawIOBase):
    """The encoded image, whose bytes the other side has."""

    def __init__(self, size: int, need: Callable[[int, int], bytes]) -> None:
        self._size, self._need, self._at = size, need, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        length = max(0, min(len(buffer), self._size - self._at))
        if length:
            buffer[:length] = self._need(self._at, length)
        self._at += length
        return length


class RemoteData:
    """The same file as `pipeline.images.tiff_directory.Data`."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        first, last, _ = part.indices(self._size)
        self._file.seek(first)
        return self._file.read(max(0, last - first))


def serve_regions(
    requests: BinaryIO,
    replies: BinaryIO,
    size: int,
    max_pixels: int,
    rules: SampleRules,
    seconds: int,
    peak_bytes: Callable[[], int],
) -> None:
    """Open an image of `size` bytes, and answer commands about it until stdin ends."""

    def send(message: dict[str, object], samples: memoryview | None = None) -> None:
        encoded = json.dumps(message | {"peak_bytes": peak_bytes()}).encode()
        replies.write(LENGTH.pack(len(encoded)) + encoded)
        if samples is not None:
            replies.write(samples)
        replies.flush()

    def need(first: int, length: int) -> bytes:
        send({"need": [first, length]})
        data = requests.read(length)
        if len(data) != length:  # the other side is gone
            raise SystemExit
        signal.alarm(seconds)
        return data

    signal.alarm(seconds)
    picture = None
    try:
        picture = _open(RemoteFile(size, need), size, max_pixels, rules)
        height, width = picture.size
        send({"height": height, "width": width, "warning": picture.warning})
    except ImageError as error:
        send({"status": error.status, "error": error.message})
    signal.alarm(0)
    while picture is not None and (command := requests.read(COMMAND.size)):
        kind, *numbers = COMMAND.unpack(command)
        signal.alarm(seconds)
        try:
            samples = _part(picture, kind, numbers)
        except ImageError as error:
            send({"status": error.status, "error": error.message})
        else:
            send({"height": samples.shape[0], "width": samples.shape[1]}, samples.data)
        signal.alarm(0)


def _open(file: RemoteFile, size: int, max_pixels: int, rules: SampleRules) -> TiffRegions:
    from pipeline.images.tiff import tiff_errors
    from pipeline.images.tiff_regions import TiffRegions

    buffered = cast(BinaryIO, io.BufferedReader(file, _BUFFER))
    with tiff_errors():
        return TiffRegions(buffered, RemoteData(buffered, size), max_pixels, rules)


def _part(picture: TiffRegions, kind: bytes, numbers: list[int]) -> Any:
    from pipeline.images.tiff import tiff_errors

    with tiff_errors():
        if kind == RESIZED:
            return picture.resized((numbers[0], numbers[1]))
        return picture.read((numbers[0], numbers[1], numbers[2], numbers[3]))
