"""The cache of proposals for training: computed once across the cluster, stored as Parquet.

    <folder>/<proposer>-<settings hash>/part-<uuid>.parquet      columns of `pipeline.schema.PROPOSALS_CACHE`

The key of an image is (image_uri, etag), so a changed image is computed again. A part is created whole: a
run that dies loses only the part that it was collecting.

Legend: P proposals of one image. Boxes are xyxy, absolute pixels in the image frame.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.errors import UserError
from pipeline.proposals.reading import ReadSettings, read_lots, unplanned
from pipeline.proposals.table import Boxes, boxes_array, boxes_of, write_part
from pipeline.runtime import cluster
from pipeline.runtime.attempts import Attempts, SharedAttempts
from pipeline.runtime.progress import Progress
from pipeline.schema import PROPOSALS_CACHE, image_keys, read_columns

logger = logging.getLogger(__name__)

ROWS_PER_PART = 512
"""Images of one part: 16 MB of boxes at 2000 an image. If the driver dies, so many are computed again."""
IMAGES_AT_ONCE = 32
"""Images that a worker reads ahead, while it makes proposals for the 32 images before."""


def settings_name(config: ProposalConfig) -> str:
    """Name the folder for one proposer and its settings, e.g. `opencv-3f2a9c01`."""
    digest = hashlib.sha256(json.dumps(config.settings(), sort_keys=True).encode()).hexdigest()
    return f"{config.name}-{digest[:8]}"


def propose_batch(
    rows: pa.Table, config: ProposalConfig, attempts: Attempts | None = None
) -> Iterator[pa.Table]:
    """Make the proposals of some images. A bad image becomes a row with its error.

    Args:
        rows: the images (PLAN).
        config: the proposer and its settings.
        attempts: the counts that all workers share: an image that kills its worker three times is a bad
            image.

    Yields:
        Tables PROPOSALS_CACHE of up to `IMAGES_AT_ONCE` rows.
    """
    settings = ReadSettings(proposals=config, fence_is_enough=False)
    for candidates in read_lots(rows, settings, attempts, most=IMAGES_AT_ONCE):
        yield _cached(candidates)


def _cached(candidates: pa.Table) -> pa.Table:
    """Turn rows CANDIDATE into rows PROPOSALS_CACHE."""
    results = candidates.select(["status", "error", "proposals"]).to_pylist()
    bad = [row["status"] != "ok" for row in results]
    boxes = [
        None if failed else np.frombuffer(row["proposals"] or b"", np.float32).reshape(-1, 4)
        for row, failed in zip(results, bad, strict=True)
    ]
    errors = [
        f"{row['status']}: {row['error']}" if failed else None
        for row, failed in zip(results, bad, strict=True)
    ]
    columns = {name: candidates[name] for name in ("image_uri", "etag", "width", "height")}
    table = pa.table(
        columns | {"boxes": boxes_array(boxes), "error": pa.array(errors, pa.string())}
    )
    return table.select(PROPOSALS_CACHE.names).cast(PROPOSALS_CACHE)


def compute_proposals(
    images: Iterable[storage.ObjectInfo], config: ProposalConfig, folder: str
) -> tuple[dict[str, Boxes], dict[str, str]]:
    """Return the proposals of every image: from the cache under `folder`, or computed on the cluster.

    Args:
        images: the listed objects. The ETags show which images have changed.
        config: the proposer and its settings; each combination has its own folder in the cache. `rpn` makes
            no boxes at this stage: every image that can be decoded gets an empty array.
        folder: URI of the cache.

    Returns:
        image_uri -> (P, 4) float32 boxes, xyxy in the image frame, best first; and image_uri -> error for the
        images that could not be read or decoded. Every image is in one of the two.

    Raises:
        UserError: a file in the cache is not a table of proposals.
    """
    wanted = {info.uri: info for info in images}
    cache = storage.join(folder, settings_name(config))
    boxes = _read_cache(cache, wanted)
    errors: dict[str, str] = {}
    missing = [info for uri, info in wanted.items() if uri not in boxes]
    if not missing:
        logger.info("proposals: the cache %s has all %d images", cache, len(boxes))
        return boxes, errors
    logger.info(
        "proposals: computing %s for %d images; %d are in the cache",
        config.name,
        len(missing),
        len(boxes),
    )
    with Progress("proposals", len(wanted), "images", done=len(boxes)) as progress:
        for table in _compute(missing, config):
            write_part(cache, table, asdict(config))
            _collect(table, boxes, errors)
            progress.update(len(boxes) + len(errors))
    return boxes, errors


def _compute(missing: Sequence[storage.ObjectInfo], config: ProposalConfig) -> Iterable[pa.Table]:
    attempts = SharedAttempts()  # first, so that its process starts while Ray Data plans
    cluster.configure_ray_data()
    batches = (
        ray.data.from_arrow(unplanned(storage.as_named(missing)))
        .repartition(target_num_rows_per_block=config.spec.images_per_task)
        .map_batches(
            partial(propose_batch, config=config, attempts=attempts),
            batch_size=None,
            batch_format="pyarrow",
        )
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
                part.uri,
                f"is not a table of proposals ({error})",
                "Move the file away, or delete the cache.",
            ) from error
        unchanged = [uri in wanted and wanted[uri].etag == etag for uri, etag in image_keys(table)]
        # Errors are dropped: an image that failed may be readable now, so it is tried again.
        _collect(table.filter(pa.array(unchanged, pa.bool_())), boxes, {})
    return boxes


def _collect(table: pa.Table, boxes: dict[str, Boxes], errors: dict[str, str]) -> None:
    """Add the rows of a table PROPOSALS_CACHE to `boxes` or to `errors`, by image_uri."""
    uris = table["image_uri"].to_pylist()
    for uri, image_boxes, error in zip(
        uris, boxes_of(table["boxes"]), table["error"].to_pylist(), strict=True
    ):
        if image_boxes is None:
            errors[uri] = error
        else:
            boxes[uri] = image_boxes
