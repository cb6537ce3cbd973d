"""Lists and reads the images in Parquet files. pyarrow sees the bytes only in a separate process.

A process has one such process, without credentials and with limits (`pipeline.runtime.child_process`). This
side reads parts of the file from the store and checks all numbers that come back.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import one_line
from pipeline.runtime.child_process import LENGTH, ChildProcess, DiedError, TookTooLongError
from pipeline.storage.archives.limits import MOST_FOOTER, MOST_MEMBERS, MOST_ROW_GROUP
from pipeline.storage.archives.parquet_child import NULL, OVERSIZED
from pipeline.storage.archives.problems import DamagedArchiveError, too_large
from pipeline.storage.archives.window import Window
from pipeline.storage.list_columns import URI_COLUMNS

MEMORY_BYTES = 4 * MOST_ROW_GROUP
"""Memory for one request: the stored bytes, the unpacked ones, the chosen rows, and room for pyarrow."""
SECONDS = 60.0
_REPLY_BYTES = 64 * 2**20
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_TAIL = 64 * 2**10


class ParquetError(Exception):
    """The file, or a row group, cannot be read. The message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a Parquet file."""

    name: str
    type: str
    images: bool
    """Whether its type can hold images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroup:
    """The images of one row group."""

    rows: int
    offset: int
    """First byte of the column's pages."""
    length: int
    problem: str | None = None
    """Why its images are not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """What the end of a Parquet file says."""

    columns: tuple[Column, ...]
    column: str | None
    """The column with the images: the one that was asked for, or the only one that can hold images."""
    groups: tuple[RowGroup, ...]
    """Empty if no such column is known."""
    start: int
    """First byte of `data`, which ends the file and holds the footer."""
    data: bytes

    @property
    def is_list(self) -> bool:
        """Whether a column has URIs, so that the file is a list of images."""
        names = {column.name.strip().lower() for column in self.columns}
        return not names.isdisjoint(URI_COLUMNS) or {"bucket", "key"} <= names


def read_footer(window: Window, column: str | None) -> Footer:
    """Read the footer of a Parquet file.

    Args:
        window: the file.
        column: the column with the images (--image-column); None: the only one that can hold images.

    Raises:
        DamagedArchiveError: it is no Parquet file, or its footer is damaged.
        StorageError: it cannot be read.
    """
    tail = window.read(max(0, window.size - _TAIL), _TAIL)
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] == _ENCRYPTED:
        raise DamagedArchiveError(window.size, "is an encrypted Parquet file, which is not read")
    if tail[-4:] != _MAGIC or length + 12 > window.size:
        raise DamagedArchiveError(window.size, "is no Parquet file, or is cut: it has no footer")
    if length > MOST_FOOTER:
        raise DamagedArchiveError(window.size, f"has a footer of more than {MOST_FOOTER} bytes")
    start = window.size - 8 - length
    first = max(0, min(start, window.size - _TAIL))  # pyarrow always reads so much
    data = window.read(first, window.size - first)
    try:
        reply, _ = _ask({"size": window.size, "column": column}, [(first, data)])
        footer = _parse(reply, start, first, data)
    except (ParquetError, KeyError, TypeError, ValueError) as error:
        raise DamagedArchiveError(start, f"has a damaged footer: {one_line(error)}") from error
    if sum(group.rows for group in footer.groups) > MOST_MEMBERS:
        raise DamagedArchiveError(start, f"has more than {MOST_MEMBERS} rows")
    return footer


def _parse(reply: dict[str, Any], start: int, first: int, data: bytes) -> Footer:
    groups = []
    for group in reply["groups"]:
        rows, offset, length = int(group["rows"]), int(group["offset"]), int(group["length"])
        if min(rows, offset, length) < 0 or offset + length > start:
            raise ValueError("a row group lies outside of the file")
        unpacked = max(int(group["unpacked"]), length)
        problem = None
        if unpacked > MOST_ROW_GROUP:
            cause = f"its row group has {unpacked} bytes of images, more than the limit of {MOST_ROW_GROUP}"
            problem = too_large(cause)
        groups.append(RowGroup(rows=rows, offset=offset, length=length, problem=problem))
    column = reply["column"]
    return Footer(
        columns=tuple(
            Column(name=str(c["name"]), type=str(c["type"]), images=bool(c["images"]))
            for c in reply["columns"]
        ),
        column=None if column is None else str(column),
        groups=tuple(groups),
        start=first,
        data=data,
    )


def read_rows(
    footer: Footer, group: int, pages: bytes, rows: Sequence[int], *, size: int, max_bytes: int
) -> list[bytes | int]:
    """Return images of one row group.

    Args:
        footer: of the file.
        group: the number of the row group.
        pages: the bytes that `RowGroup` names.
        rows: the wanted rows, counted from the first of the group.
        size: bytes of the file.
        max_bytes: larger images are not returned.

    Returns:
        For each row its bytes, `NULL` for a row without bytes, or `OVERSIZED`.

    Raises:
        ParquetError: the row group cannot be read.
    """
    asked = {
        "size": size,
        "column": footer.column,
        "group": group,
        "rows": list(rows),
        "max_bytes": max_bytes,
    }
    parts = [(footer.start, footer.data), (footer.groups[group].offset, pages)]
    reply, images = _ask(asked, parts)
    lengths = reply["lengths"]
    values = iter(images)
    return [length if length in (NULL, OVERSIZED) else next(values) for length in lengths]


_lock = threading.Lock()
_child: ChildProcess | None = None


def _ask(
    asked: dict[str, Any], parts: Sequence[tuple[int, bytes]]
) -> tuple[dict[str, Any], list[bytes]]:
    """Send one request to the process. One that dies is started again, and asked once more."""
    asked = asked | {"parts": [(first, len(data)) for first, data in parts]}
    with _lock:
        for last in (False, True):
            child = _take()
            try:
                return _exchange(child, asked, parts)
            except DiedError as error:
                _end()
                if last:
                    raise ParquetError(str(error)) from error
            except TookTooLongError as error:
                _end()
                raise ParquetError(f"reading took more than {SECONDS:g} s") from error
            except BaseException:
                _end()
                raise
    raise AssertionError("unreachable")


def _exchange(
    child: ChildProcess, asked: dict[str, Any], parts: Sequence[tuple[int, bytes]]
) -> tuple[dict[str, Any], list[bytes]]:
    deadline = time.monotonic() + SECONDS
    head = json.dumps(asked).encode()
    child.send(LENGTH.pack(len(head)) + head, deadline)
    for _, data in parts:
        child.send(data, deadline)
    (length,) = LENGTH.unpack(child.receive(LENGTH.size, deadline))
    if length > _REPLY_BYTES:
        raise DiedError("its Parquet process gave an invalid reply (too long)")
    try:
        reply = json.loads(child.receive(length, deadline))
        if "error" in reply:
            error: ParquetError | None = ParquetError(one_line(reply["error"]))
            lengths = []
        else:
            error, lengths = None, [int(n) for n in reply.get("lengths", ())]
        if "rows" in asked and error is None:
            total = sum(max(0, n) for n in lengths)
            if len(lengths) != len(asked["rows"]) or min(lengths, default=0) < OVERSIZED:
                raise ValueError("lengths")
            if total > MOST_ROW_GROUP or max(lengths, default=0) > asked["max_bytes"]:
                raise ValueError("too many bytes")
    except (ValueError, TypeError, AttributeError) as invalid:
        raise DiedError(f"its Parquet process gave an invalid reply ({invalid})") from invalid
    if error is not None:
        raise error
    return reply, [bytes(child.receive(n, deadline)) for n in lengths if n >= 0]


def _take() -> ChildProcess:
    global _child
    if _child is not None and (_child.pid != os.getpid() or not _child.runs()):
        _end()
    if _child is None:
        _child = ChildProcess(
            "from pipeline.storage.archives.parquet_child import serve; "
            f"serve({MEMORY_BYTES}, {int(2 * SECONDS)})",
            "Parquet process",
        )
        atexit.register(_end)
    return _child


def _end() -> None:
    global _child
    if _child is not None and _child.pid == os.getpid():
        _child.end()
    _child = None
