"""Proposals of labelled images: computed once across the cluster, kept as Parquet, read by every worker.

    <folder>/<proposer>-<settings hash>/part-<uuid>.parquet      columns of `pipeline.schema.PROPOSALS`

An image is known by (image_uri, etag): one that changed is computed anew. A part is created whole, so a
run that dies loses the part it was gathering and no more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import prepare, propose
from pipeline import cluster, storage
from pipeline.errors import UserError
from pipeline.images import MAX_BYTES, ImageError, decode
from pipeline.progress import Progress
from pipeline.proposals_table import Boxes, boxes_array, boxes_of
from pipeline.schema import PROPOSALS_CACHE, encode_parquet, read_columns
from pipeline.storage import StorageError

logger = logging.getLogger(__name__)

ROWS_PER_PART = 512
"""16 MB of boxes at 2000 an image: what a driver that dies has to compute again."""


def settings_name(config: ProposalConfig) -> str:
    """Folder of one proposer's settings, e.g. `opencv-3f2a9c01`."""
    digest = hashlib.sha256(json.dumps(config.settings(), sort_keys=True).encode()).hexdigest()
    return f"{config.name}-{digest[:8]}"


def propose_batch(batch: pa.Table, config: ProposalConfig) -> pa.Table:
    """Rows (image_uri, etag) to rows of `PROPOSALS_CACHE`. A bad image is a row with its error."""
    prepare(config)  # one image a task and core: OpenCV's own threads would fight over it
    rows = [_propose_one(r["image_uri"], r["etag"], config) for r in batch.to_pylist()]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in PROPOSALS_CACHE.names}
    columns["boxes"] = boxes_array(columns["boxes"])
    return pa.table(columns, schema=PROPOSALS_CACHE)


def _propose_one(uri: str, etag: str | None, config: ProposalConfig) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(PROPOSALS_CACHE.names) | {"image_uri": uri, "etag": etag}
    try:
        pixels = decode(storage.read_bytes(uri, etag=etag, max_bytes=MAX_BYTES)).pixels
    except (StorageError, ImageError) as error:
        return row | {"error": f"{error.status}: {error}"}
    boxes = np.zeros((0, 4), np.float32) if config.spec.learned else propose(pixels, config)
    return row | {"boxes": boxes, "width": pixels.shape[1], "height": pixels.shape[0]}


def compute_proposals(
    images: Iterable[storage.ObjectInfo], config: ProposalConfig, folder: str
) -> tuple[dict[str, Boxes], dict[str, str]]:
    """Proposals of every image, from the cache under `folder` or computed on the cluster.

    Args:
        images: listed objects, so that a change is seen.
        config: the proposer and its settings; each set of settings has a folder of its own. `rpn` makes no
            boxes of an image alone: each that can be decoded has an empty list.
        folder: URI.

    Returns:
        image_uri -> (P, 4) float32 boxes in the image frame, best first; and image_uri -> error for the
        images that could not be read or decoded. Every image is in one of the two.
    """
    wanted = {info.uri: info for info in images}
    cache = storage.join(folder, settings_name(config))
    boxes = _read_cache(cache, wanted)
    errors: dict[str, str] = {}
    missing = [info for uri, info in wanted.items() if uri not in boxes]
    if not missing:
        logger.info("proposals: all %d images are in %s", len(boxes), cache)
        return boxes, errors
    logger.info(
        "proposals: %s for %d images (%d are cached)", config.name, len(missing), len(boxes)
    )
    with Progress("proposals", len(wanted), "images", done=len(boxes)) as progress:
        for table in _compute(missing, config):
            name = f"part-{uuid.uuid4().hex}.parquet"
            settings = {b"proposals": json.dumps(asdict(config)).encode()}
            uri = storage.join(cache, name)
            storage.create_bytes(uri, encode_parquet(table, metadata=settings))
            _collect(table, boxes, errors)
            progress.update(len(boxes) + len(errors))
    return boxes, errors


def _compute(missing: Sequence[storage.ObjectInfo], config: ProposalConfig) -> Iterable[pa.Table]:
    rows = pa.table(
        {"image_uri": [info.uri for info in missing], "etag": [info.etag for info in missing]},
        schema=pa.schema([("image_uri", pa.string()), ("etag", pa.string())]),
    )
    cluster.configure_ray_data()
    batches = (
        ray.data.from_arrow(rows)
        .repartition(target_num_rows_per_block=config.spec.images_per_task)
        .map_batches(partial(propose_batch, config=config), batch_size=None, batch_format="pyarrow")
        .iter_batches(batch_size=ROWS_PER_PART, batch_format="pyarrow")
    )
    for batch in cast(Iterable[pa.Table], batches):
        yield batch.cast(PROPOSALS_CACHE)


def _read_cache(cache: str, wanted: Mapping[str, storage.ObjectInfo]) -> dict[str, Boxes]:
    boxes: dict[str, Boxes] = {}
    for part in storage.list_objects(cache, suffixes=(".parquet",), missing_ok=True):
        try:
            with pq.ParquetFile(pa.BufferReader(storage.read_bytes(part.uri))) as file:
                table = read_columns(file, PROPOSALS_CACHE).cast(PROPOSALS_CACHE)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise UserError(
                part.uri, f"is no table of proposals ({error})", "Move it away, or clear the cache."
            ) from error
        keys = zip(table["image_uri"].to_pylist(), table["etag"].to_pylist(), strict=True)
        fresh = [uri in wanted and wanted[uri].etag == etag for uri, etag in keys]
        # Errors are not kept: what failed may have been mended, so it is tried again.
        _collect(table.filter(pa.array(fresh, pa.bool_())), boxes, {})
    return boxes


def _collect(table: pa.Table, boxes: dict[str, Boxes], errors: dict[str, str]) -> None:
    uris = table["image_uri"].to_pylist()
    for uri, own, error in zip(
        uris, boxes_of(table["boxes"]), table["error"].to_pylist(), strict=True
    ):
        if own is None:
            errors[uri] = error
        else:
            boxes[uri] = own
