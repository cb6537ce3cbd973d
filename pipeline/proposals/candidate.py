"""One image: from its bytes to a row CANDIDATE, with proposals or the reason for none; and back to pixels.

A candidate holds the encoded bytes and the proposals, not the pixels, because a decoded image is about twenty
times larger. This module does not need torch, so processes of this stage start without it.

Legend: P proposals of one image, H and W its height and width in pixels after orientation.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals.tiled import propose_on_tiles
from fastrcnn.tiles import Tiling
from pipeline import images, storage
from pipeline.errors import one_line
from pipeline.images import ImageError, SampleRules
from pipeline.images.regions import has_parts
from pipeline.images.samples import NEUTRAL
from pipeline.proposals.table import ProposalsError, ProposalsTable
from pipeline.runtime.guard import Failure, node_name
from pipeline.runtime.prefetch import in_threads
from pipeline.schema import CANDIDATE, IMAGE
from pipeline.storage import Access, StorageError

ReadResult = Future[bytes | None]
"""A finished read of one image. None: the Detector reads its parts. Exceptions are raised where the result is
used, inside the guard around one image (`pipeline.runtime.guard`)."""


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


def candidate_of(
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


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Make a table CANDIDATE."""
    return pa.Table.from_pylist(rows, schema=CANDIDATE)


def failed(row: dict[str, Any], failure: Failure) -> dict[str, Any]:
    """Describe an image that raised an exception or killed its process: a row PLAN -> a row CANDIDATE."""
    return _start_of(row) | {
        "status": failure.status,
        "error": failure.cause,
        "traceback": failure.traceback,
    }


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
