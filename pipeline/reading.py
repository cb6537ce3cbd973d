"""Reading, checking and proposing: an image -> its bytes and proposals, or the status that says why not.

    rows (PLAN) -> read_lots -> candidates (CANDIDATE), of which read_images makes a batch

Scoring, training and the export of proposals look at an image through these functions. They are plain calls,
with Ray or without. A row that fails keeps its place: it carries its status and cause on and skips the
work. What travels on are the encoded bytes and the proposals, not the pixels: a decoded image is some
twenty times larger. Nothing here needs torch, so the processes of this stage start without it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
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
from pipeline.errors import JobError, one_line
from pipeline.images import ImageError
from pipeline.prefetch import in_threads, prefetch
from pipeline.proposals_table import ProposalsError, ProposalsTable
from pipeline.schema import CANDIDATE, PLAN
from pipeline.storage import StorageError

logger = logging.getLogger(__name__)

READS_AT_ONCE = 8
"""GETs of one task: a task waits for the network far longer than it computes."""
_BYTES_READ_AT_ONCE = 128 * 2**20
_UNKNOWN_SIZE = 2**20

Read = bytes | StorageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSettings:
    """How images are read, checked and proposed for."""

    proposals: ProposalConfig
    max_bytes: int = images.MAX_BYTES
    max_pixels: int = images.MAX_PIXELS
    table: str | None = None
    """URI of a proposals table, instead of a proposer."""
    table_root: str = ""
    """What the table's relative names are relative to: --images."""
    fence_is_enough: bool = True
    """Whether an image that killed a process may pass when it can be decoded behind the fence. False where
    later stages decode it without the fence, as training does: it must then pass without the fence too."""


def unplanned(named: pa.Table) -> pa.Table:
    """Images (NAMED) as rows (PLAN), all of shard 0: for work that has no plan."""
    shard = pa.array(np.zeros(named.num_rows, np.int64))
    return named.append_column("shard", shard).cast(PLAN)


def read_lots(
    rows: pa.Table, settings: ReadSettings, attempts: Attempts | None = None, *, most: int
) -> Iterator[pa.Table]:
    """Read, check and propose, a lot at a time: images (PLAN) to candidates (CANDIDATE), one for one.

    While a lot is decoded, the next one is on its way from the store.

    Args:
        rows: images.
        settings: how.
        attempts: shared by all workers.
        most: images of a lot; lots are bounded in bytes too.
    """
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:

        def read(lot: pa.Table) -> tuple[pa.Table, list[Read]]:
            return lot, list(threads.map(lambda row: _read(row, settings), lot.to_pylist()))

        # Two threads: the requests of the next lot follow those of this one without a gap.
        for lot, reads in prefetch(read, _lots(rows, most), threads=2, waiting=1):
            yield read_images(lot, settings, attempts, reads)


def _lots(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    """Consecutive rows: so many at most, and so many bytes as they were listed."""
    first = size = 0
    for index, bytes_listed in enumerate(rows["size_bytes"].to_pylist()):
        row_size = bytes_listed if bytes_listed is not None else _UNKNOWN_SIZE
        if index > first and (index - first == most or size + row_size > _BYTES_READ_AT_ONCE):
            yield rows.slice(first, index - first)
            first, size = index, 0
        size += row_size
    if rows.num_rows > first:
        yield rows.slice(first)


def read_images(
    rows: pa.Table,
    settings: ReadSettings,
    attempts: Attempts | None = None,
    reads: Sequence[Read] | None = None,
) -> pa.Table:
    """Read, check and propose: images (PLAN) to candidates (CANDIDATE), one for one.

    A batch that was in a process when it died is taken image by image, behind the fence. An image that
    kills its process three times has the status `failed`.

    Args:
        rows: images.
        settings: how.
        attempts: shared by all workers.
        reads: the bytes of the rows, where they were read already; an image that is tried alone is read
            again.
    """
    prepare(settings.proposals)  # one core a task: OpenCV's own threads would fight the other tasks

    def work(batch: pa.Table, *, alone: bool = False) -> pa.Table:
        planned = batch.to_pylist()
        here = None if alone else reads
        if here is None:
            here = in_threads(lambda row: _read(row, settings), planned, threads=READS_AT_ONCE)
        pairs = zip(planned, here, strict=True)
        return _candidates([_look(row, read, settings, fenced=alone) for row, read in pairs])

    def fail(row: pa.Table, cause: str) -> pa.Table:
        return _candidates([_base(row.to_pylist()[0]) | {"status": "failed", "error": cause}])

    return attempt(
        rows,
        work,
        fail,
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
        if fenced and not settings.fence_is_enough:
            image = images.decode(read, max_pixels=settings.max_pixels)
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
    """Proposals (P, 4) of an image, or why it has none: an image without a row never gives an empty list.
    None: the model makes its own proposals."""
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
    """The table, kept in this process: tasks come and go, the process that runs them stays."""
    return ProposalsTable.read(uri, root)


def _base(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in PLAN.names}


def _candidates(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=CANDIDATE)


def check_failures(errors: Mapping[str, str], total: int, max_failures: float) -> None:
    """Log the images that are left out, and stop where they are too many.

    Args:
        errors: image_uri -> error.
        total: images, with those that are left out.
        max_failures: --max-failures, a share of `total`.

    Raises:
        JobError: more are left out than --max-failures allows.
    """
    failed = sorted(errors.items())
    for uri, error in failed:
        logger.warning("left out: %s: %s", uri, error)
    if len(failed) > max_failures * total:
        uri, error = failed[0]
        raise JobError(
            f"{len(failed)} of {total} images cannot be used, more than --max-failures"
            f" {max_failures:g} allows; first {uri}: {error}"
        )


def decode_candidates(
    candidates: pa.Table, *, max_pixels: int = images.MAX_PIXELS, fenced: bool = False
) -> tuple[list[dict[str, Any]], list[npt.NDArray[np.uint8]]]:
    """Rows (CANDIDATE) and the pixels (H, W, 3) of those whose status is `ok`.

    `read_images` decoded them once; a row that cannot be decoded in time here gets its status and cause.
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
