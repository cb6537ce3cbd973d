"""Reads and checks images, and makes their proposals. A bad image gets a status with the reason.

    rows (PLAN) -> read_chunks -> candidates (CANDIDATE); read_images does this for one batch

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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import prepare
from fastrcnn.proposals.tiled import propose_on_tiles
from fastrcnn.tiles import Tiling
from pipeline import images, storage
from pipeline.errors import JobError, one_line
from pipeline.images import ImageError, SampleRules
from pipeline.images.regions import has_parts, stored_parts
from pipeline.images.samples import NEUTRAL
from pipeline.proposals.table import ProposalsError, ProposalsTable
from pipeline.runtime.attempts import AttemptLog, Attempts, Failure, attempt, node_name
from pipeline.runtime.prefetch import in_threads, prefetch
from pipeline.schema import CANDIDATE, IMAGE, with_shards
from pipeline.storage import Access, StorageError
from pipeline.storage.archives.reading import Neighbours, is_placed, read_member

logger = logging.getLogger(__name__)

READS_AT_ONCE = 8
"""Requests of one task at the same time: a task waits for the network far longer than it computes."""
_BYTES_READ_AT_ONCE = 128 * 2**20
"""Bytes of one chunk at most."""
_UNKNOWN_SIZE = 2**20
"""Bytes that are assumed for an image whose size is not in the list."""

ReadResult = Future[bytes | None]
"""A finished read of one image. None: the Detector reads its parts. Exceptions are raised where the result is
used, inside the guard around one image (`pipeline.runtime.attempts`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSettings:
    """Settings for reading images, checking them and making their proposals."""

    proposals: ProposalConfig
    max_bytes: int = images.MAX_BYTES
    """Files with more bytes get the status `too_large`."""
    max_pixels: int = images.MAX_PIXELS
    """Images with more pixels get the status `too_large`."""
    rules: SampleRules = NEUTRAL
    """How samples become pixels."""
    tiling: Tiling | None = None
    """How images are divided into tiles. Each tile gets its proposals too. None: there are no tiles."""
    in_parts: bool = False
    """Whether the Detector decodes the parts of an image that has more pixels than `max_pixels`, where its
    format allows it (`pipeline.images.regions`). Such an image is not decoded here."""
    max_bytes_whole: int | None = None
    """With `in_parts`, a file of more bytes is not read here, if its format allows it: the Detector reads the
    parts that it decodes. None: all files are read."""
    truncated: images.Truncated = "warn"
    """What to do with a JPEG that lacks its end but has at least 95% of its rows."""
    table: str | None = None
    """URI of a proposals table, which is used instead of a proposer."""
    table_root: str = ""
    """URI to which relative names in the table are relative: --images."""
    access: Access = storage.OPEN
    """What may be read. Other images get the status `denied`."""
    decode: bool = True
    """False: only the header is checked, because a later stage decodes the image and nothing before it needs
    the pixels. So each image is decoded once."""
    fence_is_enough: bool = True
    """Whether an image that killed a process is good if it can be decoded behind the fence. False if later
    stages decode it without the fence, as training does: then it must be decoded without the fence too."""


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
        return _candidates([_candidate(row, read, settings, fenced=alone) for row, read in pairs])

    def fail(row: pa.Table, failure: Failure) -> pa.Table:
        return _candidates(
            [
                _start_of(row.to_pylist()[0])
                | {"status": failure.status, "error": failure.cause}
                | {"traceback": failure.traceback}
            ]
        )

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


def _candidate(
    row: dict[str, Any], read: ReadResult, settings: ReadSettings, *, fenced: bool
) -> dict[str, Any]:
    """Check one image that was read, and make its proposals: a row PLAN -> a row CANDIDATE."""
    candidate = _start_of(row)
    try:
        data = read.result()
        if data is None or (settings.in_parts and has_parts(data, settings.max_pixels)):
            content = _left_whole(row["image_uri"], data, settings)
        elif settings.decode:
            content = _decoded(row["image_uri"], data, settings, fenced=fenced)
        else:
            content = _checked(data, settings)
    except (StorageError, ImageError) as error:
        return candidate | {"status": error.status, "error": one_line(error)}
    if row["size_bytes"] is None and data is not None:  # as of a row of a Parquet file
        candidate |= {"size_bytes": len(data)}
    return candidate | content


def _decoded(uri: str, data: bytes, settings: ReadSettings, *, fenced: bool) -> dict[str, Any]:
    """Decode an image and make its proposals: the other columns of CANDIDATE. Raises `ImageError`."""
    decode = functools.partial(
        images.decode,
        max_pixels=settings.max_pixels,
        rules=settings.rules,
        truncated=settings.truncated,
    )
    image = decode(data, fenced=fenced)
    if fenced and not settings.fence_is_enough:
        image = decode(data)
    height, width = image.pixels.shape[:2]
    boxes = _boxes(uri, image.pixels, settings)
    if isinstance(boxes, str):
        return {"status": "failed", "error": boxes, "width": width, "height": height}
    return {
        "status": "ok",
        "error": image.warning,
        "width": width,
        "height": height,
        "image": data,
        "proposals": _encoded(boxes),
    }


def _checked(data: bytes, settings: ReadSettings) -> dict[str, Any]:
    """Check the header of an image: the other columns of CANDIDATE. Raises `ImageError`.

    The size is that of the header. The stage that decodes the image replaces it.
    """
    height, width = images.check_header(data, max_pixels=settings.max_pixels) or (None, None)
    return {"status": "ok", "width": width, "height": height, "image": data}


def _left_whole(uri: str, data: bytes | None, settings: ReadSettings) -> dict[str, Any]:
    """Describe an image of which the Detector decodes parts: the other columns of CANDIDATE."""
    boxes = _boxes(uri, None, settings)
    if isinstance(boxes, str):
        return {"status": "failed", "error": boxes}
    return {"status": "ok", "image": data, "proposals": _encoded(boxes)}


def _encoded(boxes: npt.NDArray[np.float32] | None) -> bytes | None:
    """Encode proposals (P, 4) as the column of CANDIDATE. None stays None: the model makes its proposals."""
    return None if boxes is None else np.ascontiguousarray(boxes, dtype=np.float32).tobytes()


def _boxes(
    uri: str, pixels: npt.NDArray[np.uint8] | None, settings: ReadSettings
) -> npt.NDArray[np.float32] | str | None:
    """Make the proposals (P, 4) of an image, xyxy in the image frame, or return the cause of a failure.

    None means that the model makes its proposals. An image without a row in the table is a failure, never an
    empty array.
    """
    if settings.table is None and settings.proposals.spec.learned:
        return None
    if settings.table is None:
        assert pixels is not None  # `in_parts` is for tables and for models that propose
        return propose_on_tiles(pixels, settings.proposals, settings.tiling)
    table = _table(settings.table, settings.table_root)
    most = (
        None if settings.tiling else settings.proposals.max_boxes
    )  # tiles share the rows of the image
    try:
        return table.of(uri, most)
    except ProposalsError as error:
        return one_line(error)


@functools.cache
def _table(uri: str, root: str) -> ProposalsTable:
    """Read the table once a process: a process runs many tasks."""
    return ProposalsTable.read(uri, root)


def _start_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the first columns of a candidate: those of the image, and the name of this machine."""
    return {name: row[name] for name in IMAGE.names} | {"node": node_name()}


def _candidates(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=CANDIDATE)


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
    failed = sorted(errors.items())
    for uri, error in failed:
        logger.warning("left out: %s: %s", uri, error)
    if failed and len(failed) + before > max_failures * total:
        uri, error = failed[0]
        raise JobError(
            f"{len(failed) + before} of {total} images cannot be used, more than --max-failures"
            f" {max_failures:g} allows. The first is {uri}: {error}"
        )


def decode_candidates(
    candidates: pa.Table,
    *,
    max_pixels: int = images.MAX_PIXELS,
    rules: SampleRules = NEUTRAL,
    truncated: images.Truncated = "warn",
    fenced: bool = False,
    threads: int = 1,
) -> tuple[list[dict[str, Any]], list[npt.NDArray[np.uint8]]]:
    """Decode the images of candidates, and state their sizes and warnings.

    If the model makes the proposals, this is the first time that the images are decoded. Otherwise
    `read_images` has decoded each image once; one that fails now, for example because decoding takes too long
    this time, gets its status and cause.

    Args:
        candidates: rows (CANDIDATE).
        max_pixels: images with more pixels are refused.
        rules: how samples become pixels; those that the candidates were read with.
        truncated: what to do with a JPEG that lacks its end.
        fenced: decode all images behind the fence.
        threads: images that are decoded at the same time.

    Returns:
        The rows; and for each row with the status `ok`, its pixels (H, W, 3) uint8 RGB, upright.
    """
    rows = candidates.to_pylist()
    decode = functools.partial(
        images.decode, max_pixels=max_pixels, rules=rules, truncated=truncated, fenced=fenced
    )

    def decoded(row: dict[str, Any]) -> npt.NDArray[np.uint8] | None:
        if row["status"] != "ok":
            return None
        try:
            image = decode(row["image"])
        except ImageError as error:
            row |= {"status": error.status, "error": one_line(error), "width": None, "height": None}
            return None
        height, width = image.pixels.shape[:2]
        row |= {"width": width, "height": height, "error": image.warning}
        return image.pixels

    if threads > 1 and len(rows) > 1:
        pixels = in_threads(decoded, rows, threads=min(threads, len(rows)))
    else:
        pixels = [decoded(row) for row in rows]
    return rows, [image for image in pixels if image is not None]
