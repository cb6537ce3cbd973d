"""Opens the text files of lists: UTF-8, which may be compressed with gzip whatever the name is."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_NO_TEXT = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PK\x03\x04": "a ZIP or Excel file",
    b"PAR1": "a Parquet file",
    _GZIP_MAGIC: "gzip in gzip",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
_BEGINNING = 4096


@contextmanager
def open_text(path: Path, uri: str, newline: str) -> Iterator[TextIO]:
    """Open a UTF-8 file, which may be compressed with gzip whatever its name is.

    Raises:
        UserError: the file begins as UTF-16 or as a binary format.
    """
    with _open_bytes(path) as stream:
        beginning: bytes = stream.read(_BEGINNING)
        stream.seek(0)
        kind = next((kind for magic, kind in _NO_TEXT.items() if beginning.startswith(magic)), None)
        if kind is None and beginning.count(0) > len(beginning) / 8:
            kind = "binary, or UTF-16 text"
        if kind is not None:
            raise UserError(uri, f"is {kind}", "Expected UTF-8 text. Save it as UTF-8.")
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline) as lines:
            yield lines


@contextmanager
def _open_bytes(path: Path) -> Iterator[Any]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        yield gzip.GzipFile(fileobj=raw) if zipped else raw


def first_line_that_is_not_utf8(path: Path) -> int:
    """Return the number of the line. The reader does not know it, because it decodes blocks."""
    with _open_bytes(path) as lines:
        for place, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return place
    return 0  # the list has changed since
