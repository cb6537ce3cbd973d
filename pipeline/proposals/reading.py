"""Reads and checks images, and makes their proposals. A bad image gets a status with the reason.

    rows (PLAN) -> read_lots -> candidates (CANDIDATE); read_images does this for one batch

Scoring, training and the export of proposals read images through these functions. They are plain calls, with
Ray or without. A row that fails keeps its place: it carries its status and its cause, and the later stages do
no work on it. A candidate holds the encoded bytes and the proposals, not the pixels, because a decoded image
is about twenty times larger. This module does not need torch, so processes of this stage start without it.

Legend: P proposals of one image, H and W its height and width in pixels after orientation.
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
from pipeline.errors import JobError, one_line
from pipeline.images import ImageError
from pipeline.proposals.table import ProposalsError, ProposalsTable
from pipeline.runtime.attempts import AttemptLog, Attempts, attempt
from pipeline.runtime.prefetch import in_threads, prefetch
from pipeline.schema import CANDIDATE, PLAN
from pipeline.storage import StorageError

logger = logging.getLogger(__name__)

READS_AT_ONCE = 8
"""Requests of one task at the same time: a task waits for the network far longer than it computes."""
_BYTES_READ_AT_ONCE = 128 * 2**20
"""Bytes of one lot at most."""
_UNKNOWN_SIZE = 2**20
"""Bytes that are assumed for an image whose size is not in the list."""

Read = bytes | StorageError
"""The result of reading one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSettings:
    """Settings for reading images, checking them and making their proposals."""

    proposals: ProposalConfig
    max_bytes: int = images.MAX_BYTES
    """Files with more bytes get the status `too_large`."""
    max_pixels: int = images.MAX_PIXELS
    """Images with more pixels get the status `too_large`."""
    table: str | None = None
    """URI of a proposals table, which is used instead of a proposer."""
    table_root: str = ""
    """URI to which relative names in the table are relative: --images."""
    fence_is_enough: bool = True
    """Whether an image that killed a process is good if it can be decoded behind the fence. False if later
    stages decode it without the fence, as training does: then it must be decoded without the fence too."""


def unplanned(named: pa.Table) -> pa.Table:
    """Turn images (NAMED) into rows (PLAN), all in shard 0; for work that has no plan."""
    shard = pa.array(np.zeros(named.num_rows, np.int64))
    return named.append_column("shard", shard).cast(PLAN)


def read_lots(
    rows: pa.Table, settings: ReadSettings, attempts: Attempts | None = None, *, most: int
) -> Iterator[pa.Table]:
    """Read and check images and make their proposals, lot by lot. A lot is some consecutive images.

    While one lot is decoded, the next one is read from the store.

    Args:
        rows: the images (PLAN).
        settings: how to read them.
        attempts: the counts that all workers share.
        most: images of one lot at most; the bytes of a lot are limited too.

    Yields:
        Tables CANDIDATE, one row an image, in the order of `rows`.
    """
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:

        def read(lot: pa.Table) -> tuple[pa.Table, list[Read]]:
            return lot, list(threads.map(lambda row: _read(row, settings), lot.to_pylist()))

        # With two threads, the requests of the next lot follow those of this lot without a gap.
        for lot, reads in prefetch(read, _lots(rows, most), threads=2, waiting=1):
            yield read_images(lot, settings, attempts, reads)


def _lots(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    """Split the rows into lots of at most `most` rows and `_BYTES_READ_AT_ONCE` listed bytes."""
    first = size = 0
    for index, listed_size in enumerate(rows["size_bytes"].to_pylist()):
        row_size = listed_size if listed_size is not None else _UNKNOWN_SIZE
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
    """Read and check images and make their proposals, as one batch.

    If a process died with this batch, the images are tried one at a time, behind the fence. An image that
    kills its process three times gets the status `failed`.

    Args:
        rows: the images (PLAN).
        settings: how to read them.
        attempts: the counts that all workers share.
        reads: the results of reading the rows, if they were read already. An image that is tried alone is
            read again.

    Returns:
        A table CANDIDATE, one row an image, in the order of `rows`.
    """
    # A task uses one core: OpenCV's threads would compete with the other tasks.
    prepare(settings.proposals)

    def work(batch: pa.Table, *, alone: bool = False) -> pa.Table:
        planned = batch.to_pylist()
        results = None if alone else reads
        if results is None:
            results = in_threads(lambda row: _read(row, settings), planned, threads=READS_AT_ONCE)
        pairs = zip(planned, results, strict=True)
        return _candidates([_candidate(row, read, settings, fenced=alone) for row, read in pairs])

    def fail(row: pa.Table, cause: str) -> pa.Table:
        return _candidates([_planned(row.to_pylist()[0]) | {"status": "failed", "error": cause}])

    return attempt(
        rows,
        work,
        fail,
        stage="read",
        attempts=attempts or AttemptLog(),
        alone=functools.partial(work, alone=True),
    )


def _read(row: dict[str, Any], settings: ReadSettings) -> Read:
    """Read the bytes of one image (PLAN)."""
    uri, etag, size = row["image_uri"], row["etag"], row["size_bytes"]
    if size is not None and size > settings.max_bytes:  # the listed size is enough: no request
        return storage.ObjectTooLarge(
            f"{uri}: has {size} bytes, more than the limit of {settings.max_bytes}"
        )
    try:
        data = storage.read_bytes(uri, etag=etag, max_bytes=settings.max_bytes)
    except StorageError as error:
        return error
    if etag is None:
        return storage.ObjectChanged(
            f"{uri}: did not exist when the run was planned, but exists now; run the command again"
        )
    return data


def _candidate(
    row: dict[str, Any], read: Read, settings: ReadSettings, *, fenced: bool
) -> dict[str, Any]:
    """Decode one image that was read, and make its proposals: a row PLAN -> a row CANDIDATE."""
    candidate = _planned(row)
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
    """Make the proposals (P, 4) of an image, xyxy in the image frame, or return the cause of a failure.

    None means that the model makes its proposals. An image without a row in the table is a failure, never an
    empty array.
    """
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
    """Read the table once a process: a process runs many tasks."""
    return ProposalsTable.read(uri, root)


def _planned(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns PLAN of a row."""
    return {name: row[name] for name in PLAN.names}


def _candidates(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=CANDIDATE)


def check_failures(errors: Mapping[str, str], total: int, max_failures: float) -> None:
    """Log each image that is left out; raise if there are too many.

    Args:
        errors: image_uri -> error, for the images that are left out.
        total: number of all images, including those that are left out.
        max_failures: --max-failures, a share of `total`.

    Raises:
        JobError: more images are left out than --max-failures allows.
    """
    failed = sorted(errors.items())
    for uri, error in failed:
        logger.warning("left out: %s: %s", uri, error)
    if len(failed) > max_failures * total:
        uri, error = failed[0]
        raise JobError(
            f"{len(failed)} of {total} images cannot be used, more than --max-failures"
            f" {max_failures:g} allows. The first is {uri}: {error}"
        )


def decode_candidates(
    candidates: pa.Table, *, max_pixels: int = images.MAX_PIXELS, fenced: bool = False
) -> tuple[list[dict[str, Any]], list[npt.NDArray[np.uint8]]]:
    """Decode the images of candidates.

    `read_images` has decoded each image once. An image that fails now, for example because decoding takes
    too long this time, gets its status and cause.

    Args:
        candidates: rows (CANDIDATE).
        max_pixels: images with more pixels are refused.
        fenced: decode all images behind the fence.

    Returns:
        The rows; and for each row with the status `ok`, its pixels (H, W, 3) uint8 RGB, upright.
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
