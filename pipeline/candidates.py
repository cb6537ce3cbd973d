"""The CPU stage: a planned image -> its bytes, checked, and its proposals, or the status that says why not.

    plan rows (PLAN) -> read_images -> candidates (CANDIDATE)

Plain calls, Ray or not. A row that fails keeps its place: it carries its status and cause on and skips the
work. What travels on are the encoded bytes and the proposals, not the pixels: a decoded image is some
twenty times larger. Nothing here needs torch, so the processes of this stage start without it.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import prepare, propose
from pipeline import images, storage
from pipeline.attempts import AttemptLog, Attempts, attempt
from pipeline.images import ImageError
from pipeline.proposals_table import ProposalsError, ProposalsTable
from pipeline.storage import StorageError

CANDIDATE = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("image", pa.large_binary()),  # encoded, as it lies in the bucket; null unless ok
        pa.field("proposals", pa.large_binary()),  # (P, 4) float32, row by row; null unless ok
    ]
)
READS_AT_ONCE = 8
"""GETs of one task: a task waits for the network far longer than it computes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSettings:
    """What the CPU stage is told."""

    proposals: ProposalConfig
    max_bytes: int = images.MAX_BYTES
    max_pixels: int = images.MAX_PIXELS
    table: str | None = None
    """URI of a proposals table, instead of a proposer."""
    table_root: str = ""
    """What the table's relative names are relative to: --images."""


def read_images(
    rows: pa.Table, settings: ReadSettings, attempts: Attempts | None = None
) -> pa.Table:
    """Read, check and propose: planned images (schema PLAN) to candidates (CANDIDATE), one for one."""
    prepare(settings.proposals)  # one core a task: OpenCV's own threads would fight the other tasks

    def work(batch: pa.Table, *, fenced: bool = False) -> pa.Table:
        planned = batch.to_pylist()
        with ThreadPoolExecutor(READS_AT_ONCE) as threads:
            reads = list(threads.map(lambda row: _read(row, settings), planned))
        return _candidates(
            [
                _look(row, read, settings, fenced=fenced)
                for row, read in zip(planned, reads, strict=True)
            ]
        )

    def fail(row: pa.Table, cause: str) -> pa.Table:
        return _candidates([_base(row.to_pylist()[0]) | {"status": "failed", "error": cause}])

    return attempt(
        *(rows, work, fail),
        stage="read",
        attempts=attempts or AttemptLog(),
        alone=functools.partial(work, fenced=True),
    )


def _read(row: dict[str, Any], settings: ReadSettings) -> bytes | StorageError:
    uri, etag, size = row["image_uri"], row["etag"], row["size_bytes"]
    if size is not None and size > settings.max_bytes:  # as listed: not even a request
        return storage.ObjectTooLarge(f"{uri}: {size} bytes, at most {settings.max_bytes}")
    try:
        data = storage.read_bytes(uri, etag=etag, max_bytes=settings.max_bytes)
    except StorageError as error:
        return error
    if etag is None:
        return storage.ObjectChanged(
            f"{uri}: was not there when it was planned; it is now, run again"
        )
    return data


def _look(
    row: dict[str, Any], read: bytes | StorageError, settings: ReadSettings, *, fenced: bool
) -> dict[str, Any]:
    candidate = _base(row)
    if isinstance(read, StorageError):
        return candidate | {"status": read.status, "error": one_line(read)}
    try:
        image = images.decode(read, max_pixels=settings.max_pixels, fenced=fenced)
    except ImageError as error:
        return candidate | {"status": error.status, "error": one_line(error)}
    height, width = image.pixels.shape[:2]
    boxes = _boxes(row["image_uri"], image.pixels, settings)
    if isinstance(boxes, str):
        return candidate | {"status": "failed", "error": boxes, "width": width, "height": height}
    return candidate | {
        "status": "ok",
        "error": image.warning,
        "width": width,
        "height": height,
        "image": read,
        "proposals": np.ascontiguousarray(boxes, dtype=np.float32).tobytes(),
    }


def _boxes(
    uri: str, pixels: npt.NDArray[np.uint8], settings: ReadSettings
) -> npt.NDArray[np.float32] | str:
    """Proposals (P, 4) of an image, or why there are none: never an empty list for want of a row."""
    if settings.table is None:
        return propose(pixels, settings.proposals)
    table = _table(settings.table, settings.table_root)
    try:
        return table.of(uri, settings.proposals.max_boxes)
    except ProposalsError as error:
        return one_line(error)


@functools.cache
def _table(uri: str, root: str) -> ProposalsTable:
    """Of this process: tasks come and go, the process that runs them stays."""
    return ProposalsTable.read(uri, root)


def _base(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("image_uri", "etag", "size_bytes", "shard")}


def _candidates(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=CANDIDATE)


def one_line(error: Exception) -> str:
    """What the column `error` says of an exception."""
    return " ".join(str(error).split()) or type(error).__name__
