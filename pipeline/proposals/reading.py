"""Reads and checks images, and makes their proposals. A bad image gets a status with the reason.

    rows (PLAN) -> read_chunks -> candidates (CANDIDATE); read_images does this for one batch

Scoring, training and the export of proposals read images through these functions. They are plain calls, with
Ray or without. A row that fails keeps its place: it carries its status and its cause, and the later stages do
no work on it. What becomes of one image is in `pipeline.proposals.candidate`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pyarrow as pa

from fastrcnn.proposals import prepare
from pipeline import storage
from pipeline.errors import JobError
from pipeline.images.regions import stored_parts
from pipeline.proposals.candidate import (
    ReadResult,
    ReadSettings,
    as_table,
    candidate_of,
    failed,
)
from pipeline.runtime.attempts import AttemptLog, Attempts
from pipeline.runtime.guard import Failure, attempt
from pipeline.runtime.prefetch import prefetch
from pipeline.schema import with_shards
from pipeline.storage.archives.reading import Neighbours, is_placed, read_member

logger = logging.getLogger(__name__)

READS_AT_ONCE = 8
"""Requests of one task at the same time: a task waits for the network far longer than it computes."""
_BYTES_READ_AT_ONCE = 128 * 2**20
"""Bytes of one chunk at most."""
_UNKNOWN_SIZE = 2**20
"""Bytes that are assumed for an image whose size is not in the list."""


def unplanned(named: pa.Table) -> pa.Table:
    """Turn images (NAMED) into rows (PLAN), all in shard 0; for work that has no plan."""
    return with_shards(named, pa.array(np.zeros(named.num_rows, np.int64)))


def read_chunks(
    rows: pa.Table, settings: ReadSettings, attempts: Attempts | None = None, *, max_images: int
) -> Iterator[pa.Table]:
    """Read and check images and make their proposals, chunk by chunk. A chunk is a few consecutive images.

    While one chunk is decoded, the next one is read from the store.

    Args:
        rows: the images (PLAN).
        settings: how to read them.
        attempts: the counts that all workers share.
        max_images: images of one chunk at most; the bytes of a chunk are limited too.

    Yields:
        Tables CANDIDATE, one row an image, in the order of `rows`.
    """
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        members = _neighbours(rows, settings)

        def read(chunk: pa.Table) -> tuple[pa.Table, list[ReadResult]]:
            return chunk, _read_all(threads, chunk.to_pylist(), settings, members)

        # With two threads, the requests of the next chunk follow those of this chunk without a gap.
        for chunk, reads in prefetch(read, _chunks(rows, max_images), threads=2, waiting=1):
            yield read_images(chunk, settings, attempts, reads)


def _chunks(rows: pa.Table, max_images: int) -> Iterator[pa.Table]:
    """Split the rows into chunks of at most `max_images` rows and `_BYTES_READ_AT_ONCE` listed bytes."""
    first = size = 0
    for index, listed_size in enumerate(rows["size_bytes"].to_pylist()):
        row_size = listed_size if listed_size is not None else _UNKNOWN_SIZE
        if index > first and (index - first == max_images or size + row_size > _BYTES_READ_AT_ONCE):
            yield rows.slice(first, index - first)
            first, size = index, 0
        size += row_size
    if rows.num_rows > first:
        yield rows.slice(first)


def read_images(
    rows: pa.Table,
    settings: ReadSettings,
    attempts: Attempts | None = None,
    reads: Sequence[ReadResult] | None = None,
) -> pa.Table:
    """Read and check images and make their proposals, as one batch.

    If an image raises an exception, or if a process died with this batch, the images are tried one at a time,
    behind the fence. An image that raises again, or kills its process three times, gets the status `failed`.

    Args:
        rows: the images (PLAN).
        settings: how to read them.
        attempts: the counts that all workers share.
        reads: the results of reading the rows, if they were read already. An image that is tried alone is
            read again.

    Returns:
        A table CANDIDATE, one row an image, in the order of `rows`.
    """
    if settings.decode:
        # A task uses one core: OpenCV's threads would compete with the other tasks.
        prepare(settings.proposals)

    def work(batch: pa.Table, *, alone: bool = False) -> pa.Table:
        planned = batch.to_pylist()
        results = None if alone else reads
        if results is None:
            with ThreadPoolExecutor(READS_AT_ONCE) as threads:
                results = _read_all(threads, planned, settings)
        pairs = zip(planned, results, strict=True)
        return as_table([candidate_of(row, read, settings, fenced=alone) for row, read in pairs])

    def fail(row: pa.Table, failure: Failure) -> pa.Table:
        return as_table([failed(row.to_pylist()[0], failure)])

    return attempt(
        rows,
        work,
        fail,
        stage="read",
        attempts=attempts or AttemptLog(),
        alone=functools.partial(work, alone=True),
    )


def _neighbours(rows: pa.Table, settings: ReadSettings) -> Neighbours:
    """Group the members of archives among the rows, so that neighbours are read by one request."""
    placed = [] if rows["offset"].null_count == rows.num_rows else rows.to_pylist()
    return Neighbours(placed, max_bytes=settings.max_bytes, access=settings.access)


def _read_all(
    threads: ThreadPoolExecutor,
    rows: Sequence[dict[str, Any]],
    settings: ReadSettings,
    members: Neighbours | None = None,
) -> list[ReadResult]:
    """Read the bytes of some images (PLAN), several at once."""
    reads = [threads.submit(_read, row, settings, members) for row in rows]
    wait(reads)
    return reads


def _read(
    row: dict[str, Any], settings: ReadSettings, members: Neighbours | None = None
) -> bytes | None:
    """Read the bytes of one image (PLAN), or only the first ones of a large TIFF. Raises `StorageError`."""
    uri, etag, size = row["image_uri"], row["etag"], row["size_bytes"]
    if is_placed(row):
        if members is None:
            return read_member(row, max_bytes=settings.max_bytes, access=settings.access)
        return members.read(row)
    if size is not None and size > settings.max_bytes:  # the listed size is enough: no request
        raise storage.ObjectTooLarge(
            f"{uri}: has {size} bytes, more than the limit of {settings.max_bytes}"
        )
    if etag is not None and _is_read_in_parts(uri, etag, size, settings):
        return None
    data = storage.read_bytes(uri, etag=etag, max_bytes=settings.max_bytes, access=settings.access)
    if etag is None:
        raise storage.ObjectChanged(
            f"{uri}: did not exist when the run was planned, but exists now; run the command again"
        )
    return data


def _is_read_in_parts(uri: str, etag: str, size: int | None, settings: ReadSettings) -> bool:
    """Whether an object has more than `max_bytes_whole`, and parts that can be decoded alone."""
    limit, access = settings.max_bytes_whole, settings.access
    if not settings.in_parts or limit is None or size is None or size <= limit:
        return False
    parts = stored_parts(uri, size, etag, settings.max_pixels, only_larger=False, access=access)
    return parts is not None


def check_failures(
    errors: Mapping[str, str], total: int, max_failures: float, *, before: int = 0
) -> None:
    """Log each image that is left out; raise if there are too many.

    Args:
        errors: image_uri -> error, for the images that are left out.
        total: number of all images, including those that are left out.
        max_failures: --max-failures, a share of `total`.
        before: number of images that were left out and logged before; `total` includes them.

    Raises:
        JobError: more images are left out than --max-failures allows.
    """
    left_out = sorted(errors.items())
    for uri, error in left_out:
        logger.warning("left out: %s: %s", uri, error)
    if left_out and len(left_out) + before > max_failures * total:
        uri, error = left_out[0]
        raise JobError(
            f"{len(left_out) + before} of {total} images cannot be used, more than --max-failures"
            f" {max_failures:g} allows. The first is {uri}: {error}"
        )
