"""Reads the parts of an archive that its index needs, with few requests."""

from __future__ import annotations

from pipeline.storage.access import OPEN, Access
from pipeline.storage.objects import read_range

LARGEST_WINDOW = 8 * 2**20
"""Bytes of one request at most."""
SMALLEST_WINDOW = 16 * 2**10
"""Bytes of a request after a skipped body: a header with its PAX header."""
SKIP = 2**20
"""A body of more bytes is skipped by a new request. A smaller one is read and thrown away: in the time of a
request (about 30 ms), S3 gives about a megabyte."""


class Window:
    """A window of an object that moves forward. It holds at most `LARGEST_WINDOW` bytes."""

    def __init__(self, uri: str, *, size: int, etag: str | None, access: Access = OPEN) -> None:
        self.uri, self.size = uri, size
        self._etag, self._access = etag, access
        self._start, self._data = 0, b""
        self._ahead = 4 * SMALLEST_WINDOW
        self.requests = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes from `offset` on; fewer than `length` at the end of the object.

        Raises:
            StorageError: they cannot be read, or the object has another ETag by now.
        """
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._data):
            self._move(offset, length)
            begin = 0
        return self._data[begin : begin + length]

    def _move(self, offset: int, length: int) -> None:
        gap = offset - (self._start + len(self._data))
        near = 0 <= gap <= SKIP or gap < 0 < len(self._data) + gap
        self._ahead = min(4 * self._ahead, LARGEST_WINDOW) if near else SMALLEST_WINDOW
        count = max(0, min(max(length, self._ahead), self.size - offset))
        self._data = read_range(
            self.uri, first=offset, length=count, etag=self._etag, access=self._access
        )
        self._start = offset
        self.requests += 1
