"""Proposals of labelled images: computed once across the cluster, kept as Parquet, read by every worker.

    <folder>/<proposer>-<settings hash>/part-<uuid>.parquet      columns of `pipeline.schema.PROPOSALS`

An image is known by (image_uri, etag): one that changed is computed anew. A part is created whole, so a
run that dies loses the part it was gathering and no more.
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
from pipeline import cluster, storage
from pipeline.attempts import Attempts, SharedAttempts
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.proposals_table import Boxes, boxes_array, boxes_of, write_part
from pipeline.reading import ReadSettings, read_lots, unplanned
from pipeline.schema import PROPOSALS_CACHE, image_keys, read_columns

logger = logging.getLogger(__name__)

ROWS_PER_PART = 512
"""16 MB of boxes at 2000 an image: what a driver that dies has to compute again."""
IMAGES_AT_ONCE = 32
"""Images that a worker reads while it proposes for the 32 before."""


def settings_name(config: ProposalConfig) -> str:
    """Folder of one proposer's settings, e.g. `opencv-3f2a9c01`."""
    digest = hashlib.sha256(json.dumps(config.settings(), sort_keys=True).encode()).hexdigest()
    return f"{config.name}-{digest[:8]}"


def propose_batch(
    rows: pa.Table, config: ProposalConfig, attempts: Attempts | None = None
) -> Iterator[pa.Table]:
    """Images (PLAN) to rows of `PROPOSALS_CACHE`, some at a time. A bad image is a row with its error.

    Args:
        rows: images.
        config: the proposer.
        attempts: shared by all workers: an image that kills its worker three times is a bad image.
    """
    settings = ReadSettings(proposals=config, fence_is_enough=False)
    for candidates in read_lots(rows, settings, attempts, most=IMAGES_AT_ONCE):
        yield _cached(candidates)


def _cached(candidates: pa.Table) -> pa.Table:
    """Candidates (CANDIDATE) as rows of `PROPOSALS_CACHE`."""
    facts = candidates.select(["status", "error", "proposals"]).to_pylist()
    bad = [row["status"] != "ok" for row in facts]
    boxes = [
        None if failed else np.frombuffer(row["proposals"] or b"", np.float32).reshape(-1, 4)
        for row, failed in zip(facts, bad, strict=True)
    ]
    errors = [
        f"{row['status']}: {row['error']}" if failed else None
        for row, failed in zip(facts, bad, strict=True)
    ]
    columns = {name: candidates[name] for name in ("image_uri", "etag", "width", "height")}
    table = pa.table(
        columns | {"boxes": boxes_array(boxes), "error": pa.array(errors, pa.string())}
    )
    return table.select(PROPOSALS_CACHE.names).cast(PROPOSALS_CACHE)


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
            write_part(cache, table, asdict(config))
            _collect(table, boxes, errors)
            progress.update(len(boxes) + len(errors))
    return boxes, errors


def _compute(missing: Sequence[storage.ObjectInfo], config: ProposalConfig) -> Iterable[pa.Table]:
    attempts = SharedAttempts()  # before all else: its process starts while Ray Data plans
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
                part.uri, f"is no table of proposals ({error})", "Move it away, or clear the cache."
            ) from error
        fresh = [uri in wanted and wanted[uri].etag == etag for uri, etag in image_keys(table)]
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
