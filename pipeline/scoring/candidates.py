"""The CPU stage: a planned image -> its bytes, checked, and its proposals, or the status that says why not.

    tasks (TASK) -> read_tasks -> candidates (CANDIDATE), of which read_images makes a batch

Plain calls, Ray or not. A row that fails keeps its place: it carries its status and cause on and skips the
work. What travels on are the encoded bytes and the proposals, not the pixels: a decoded image is some
twenty times larger. Nothing here needs torch, so the processes of this stage start without it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import prepare, propose
from pipeline import images, storage
from pipeline.images import ImageError
from pipeline.proposals_table import ProposalsError, ProposalsTable
from pipeline.schema import CANDIDATE, TASK
from pipeline.scoring.attempts import AttemptLog, Attempts, attempt
from pipeline.scoring.plan import Plan, rows_of
from pipeline.storage import StorageError

READS_AT_ONCE = 8
"""GETs of one task: a task waits for the network far longer than it computes."""
BATCHES_READ_AT_ONCE = 4
_BYTES_READ_AT_ONCE = 128 * 2**20
_UNKNOWN_SIZE = 2**20

Read = bytes | StorageError


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


def tasks(plan: Plan, shards: Collection[int], most: int) -> pa.Table:
    """The work of some shards in tasks (TASK) of at most so many images."""
    rows = [
        {
            "part": plan.part_uri(shard),
            "shard": shard,
            "first": first,
            "rows": min(most, size - first),
        }
        for shard in shards
        for size in (plan.num_rows(shard),)
        for first in range(0, size, most)
    ]
    return pa.Table.from_pylist(rows, schema=TASK)


def read_tasks(
    work: pa.Table, settings: ReadSettings, attempts: Attempts | None = None, batch_size: int = 8
) -> Iterator[pa.Table]:
    """Read, check and propose, some batches at a time: tasks (TASK) to candidates (CANDIDATE).

    While one lot is decoded the next is on its way from the store. Within a lot, images of like shape come
    after each other: in a batch each is padded to the largest.
    """
    rows = pa.concat_tables(
        rows_of(task["part"], task["shard"]).slice(task["first"], task["rows"])
        for task in work.to_pylist()
    )
    waiting: deque[tuple[pa.Table, list[Future[Read]]]] = deque()
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        for lot in _lots(rows, BATCHES_READ_AT_ONCE * batch_size):
            reads = [threads.submit(_read, row, settings) for row in lot.to_pylist()]
            waiting.append((lot, reads))
            if len(waiting) > 1:
                yield _read_lot(*waiting.popleft(), settings, attempts)
        while waiting:
            yield _read_lot(*waiting.popleft(), settings, attempts)


def _lots(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    """Consecutive rows: so many at most, and so many bytes as they were listed."""
    first = size = 0
    for index, bytes_listed in enumerate(rows["size_bytes"].to_pylist()):
        own = bytes_listed if bytes_listed is not None else _UNKNOWN_SIZE
        if index > first and (index - first == most or size + own > _BYTES_READ_AT_ONCE):
            yield rows.slice(first, index - first)
            first, size = index, 0
        size += own
    if rows.num_rows > first:
        yield rows.slice(first)


def _read_lot(
    lot: pa.Table, reads: list[Future[Read]], settings: ReadSettings, attempts: Attempts | None
) -> pa.Table:
    candidates = read_images(lot, settings, attempts, [read.result() for read in reads])
    widths, heights = (candidates[name].to_pylist() for name in ("width", "height"))
    shapes = [(w / h, w) if w and h else (0.0, 0) for w, h in zip(widths, heights, strict=True)]
    return candidates.take(sorted(range(len(shapes)), key=shapes.__getitem__))


def read_images(
    rows: pa.Table,
    settings: ReadSettings,
    attempts: Attempts | None = None,
    reads: Sequence[Read] | None = None,
) -> pa.Table:
    """Read, check and propose: planned images (schema PLAN) to candidates (CANDIDATE), one for one.

    Args:
        rows: images.
        settings: of the stage.
        attempts: shared by all workers.
        reads: of the rows, where they are here already; an image that is tried alone is read again.
    """
    prepare(settings.proposals)  # one core a task: OpenCV's own threads would fight the other tasks

    def work(batch: pa.Table, *, alone: bool = False) -> pa.Table:
        planned = batch.to_pylist()
        here = reads if not alone else None
        if here is None:
            with ThreadPoolExecutor(READS_AT_ONCE) as threads:
                here = list(threads.map(lambda row: _read(row, settings), planned))
        pairs = zip(planned, here, strict=True)
        return _candidates([_look(row, read, settings, fenced=alone) for row, read in pairs])

    def fail(row: pa.Table, cause: str) -> pa.Table:
        return _candidates([_base(row.to_pylist()[0]) | {"status": "failed", "error": cause}])

    return attempt(
        *(rows, work, fail),
        stage="read",
        attempts=attempts or AttemptLog(),
        alone=functools.partial(work, alone=True),
    )


def _read(row: dict[str, Any], settings: ReadSettings) -> Read:
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
    row: dict[str, Any], read: Read, settings: ReadSettings, *, fenced: bool
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
        "proposals": (
            None if boxes is None else np.ascontiguousarray(boxes, dtype=np.float32).tobytes()
        ),
    }


def _boxes(
    uri: str, pixels: npt.NDArray[np.uint8], settings: ReadSettings
) -> npt.NDArray[np.float32] | str | None:
    """Proposals (P, 4) of an image, or why there are none: never an empty list for want of a row. None: the
    model makes its own."""
    if settings.table is None and settings.proposals.spec.learned:
        return None
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


def decode_candidates(
    candidates: pa.Table, *, max_pixels: int = images.MAX_PIXELS, fenced: bool = False
) -> tuple[list[dict[str, Any]], list[npt.NDArray[np.uint8]]]:
    """Rows (CANDIDATE) and the pixels (H, W, 3) of those whose status is `ok`. The CPU stage decoded them;
    should one run out of time here, its row says so.
    """
    rows = candidates.to_pylist()
    pixels = []
    for row in rows:
        if row["status"] == "ok":
            try:
                image = images.decode(row["image"], max_pixels=max_pixels, fenced=fenced)
                pixels.append(image.pixels)
            except ImageError as error:
                row |= {"status": error.status, "error": one_line(error)}
    return rows, pixels


def one_line(error: Exception) -> str:
    """What the column `error` says of an exception."""
    return " ".join(str(error).split()) or type(error).__name__
