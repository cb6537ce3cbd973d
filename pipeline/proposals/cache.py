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
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from fastrcnn.config import ProposalConfig
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.errors import UserError
from pipeline.images import LACKS_END, Truncated
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.proposals.candidate import ReadSettings
from pipeline.proposals.reading import read_chunks, unplanned
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


def settings_name(
    config: ProposalConfig,
    rules: SampleRules = NEUTRAL,
    truncated: Truncated = "warn",
    tiling: Tiling | None = None,
) -> str:
    """Name the folder for one proposer and its settings, e.g. `opencv-3f2a9c01`.

    The flags --range, --bands and --truncated count where they are given: they change the pixels, or which
    images are refused. Tiles count where there are any: each has its proposals.
    """
    settings = config.settings() | rules.described() | _described(tiling)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{config.name}-{digest[:8]}{'-whole' if truncated == 'refuse' else ''}"


def _described(tiling: Tiling | None) -> dict[str, object]:
    """Return what names and metadata say about tiles: nothing without them, as before there were tiles."""
    return {} if tiling is None else {"tiling": asdict(tiling)}


def propose_batch(
    rows: pa.Table,
    config: ProposalConfig,
    attempts: Attempts | None = None,
    rules: SampleRules = NEUTRAL,
    truncated: Truncated = "warn",
    tiling: Tiling | None = None,
) -> Iterator[pa.Table]:
    """Make the proposals of some images. A bad image becomes a row with its error.

    Args:
        rows: the images (PLAN).
        config: the proposer and its settings.
        attempts: the counts that all workers share: an image that kills its worker three times is a bad
            image.
        rules: how samples become pixels.
        truncated: what to do with a JPEG that lacks its end.
        tiling: None: the images have no tiles.

    Yields:
        Tables PROPOSALS_CACHE of up to `IMAGES_AT_ONCE` rows.
    """
    settings = ReadSettings(
        proposals=config, rules=rules, truncated=truncated, tiling=tiling, fence_is_enough=False
    )
    for candidates in read_chunks(rows, settings, attempts, max_images=IMAGES_AT_ONCE):
        yield _cache_rows(candidates)


def _cache_rows(candidates: pa.Table) -> pa.Table:
    """Turn rows CANDIDATE into rows PROPOSALS_CACHE."""
    results = candidates.select(["image_uri", "status", "error", "proposals"]).to_pylist()
    for row in results:
        if row["status"] == "ok" and LACKS_END in (row["error"] or ""):
            logger.warning("%s: %s", row["image_uri"], row["error"])
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


@dataclass(frozen=True, slots=True)
class Proposed:
    """The proposals of images. Every image is in `boxes` and `sizes`, or in `errors`."""

    boxes: dict[str, Boxes] = field(default_factory=dict)
    """image_uri -> (P, 4) float32, xyxy in the image frame, best first."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """image_uri -> (height, width) of the decoded image."""
    errors: dict[str, str] = field(default_factory=dict)
    """image_uri -> why the image could not be read or decoded."""


def compute_proposals(
    images: Iterable[storage.ObjectInfo],
    config: ProposalConfig,
    folder: str,
    *,
    rules: SampleRules = NEUTRAL,
    truncated: Truncated = "warn",
) -> tuple[dict[str, Boxes], dict[str, str]]:
    """Return the boxes and the errors of `propose_all`."""
    proposed = propose_all(images, config, folder, rules=rules, truncated=truncated)
    return proposed.boxes, proposed.errors


def propose_all(
    images: Iterable[storage.ObjectInfo],
    config: ProposalConfig,
    folder: str,
    *,
    rules: SampleRules = NEUTRAL,
    truncated: Truncated = "warn",
    tiling: Tiling | None = None,
) -> Proposed:
    """Return the proposals of every image: from the cache under `folder`, or computed on the cluster.

    Args:
        images: the listed objects. The ETags show which images have changed.
        config: the proposer and its settings; each combination has its own folder in the cache. `rpn` makes
            no boxes at this stage: every image that can be decoded gets an empty array.
        folder: URI of the cache.
        rules: how samples become pixels.
        truncated: what to do with a JPEG that lacks its end but has at least 95% of its rows. Each choice has
            its own folder in the cache too.
        tiling: the tiles that get proposals too; likewise. None: there are none.

    Raises:
        UserError: a file in the cache is not a table of proposals.
    """
    wanted = {info.uri: info for info in images}
    cache = storage.join(folder, settings_name(config, rules, truncated, tiling))
    proposed = _read_cache(cache, wanted)
    boxes = proposed.boxes
    missing = [info for uri, info in wanted.items() if uri not in boxes]
    if not missing:
        logger.info("proposals: the cache %s has all %d images", cache, len(boxes))
        return proposed
    logger.info(
        "proposals: computing %s for %d images; %d are in the cache",
        config.name,
        len(missing),
        len(boxes),
    )
    with Progress("proposals", len(wanted), "images", done=len(boxes)) as progress:
        for table in _compute(missing, config, rules, truncated, tiling):
            write_part(cache, table, asdict(config) | rules.described() | _described(tiling))
            _collect(table, proposed)
            progress.update(len(boxes) + len(proposed.errors))
    return proposed


def _compute(
    missing: Sequence[storage.ObjectInfo],
    config: ProposalConfig,
    rules: SampleRules,
    truncated: Truncated,
    tiling: Tiling | None,
) -> Iterable[pa.Table]:
    attempts = SharedAttempts()  # first, so that its process starts while Ray Data plans
    cluster.configure_ray_data()
    batches = (
        ray.data.from_arrow(unplanned(storage.as_named(missing)))
        .repartition(target_num_rows_per_block=config.spec.images_per_task)
        .map_batches(
            partial(
                propose_batch,
                config=config,
                attempts=attempts,
                rules=rules,
                truncated=truncated,
                tiling=tiling,
            ),
            batch_size=None,
            batch_format="pyarrow",
        )
        .iter_batches(batch_size=ROWS_PER_PART, batch_format="pyarrow")
    )
    for batch in cast(Iterable[pa.Table], batches):
        yield batch.cast(PROPOSALS_CACHE)


def _read_cache(cache: str, wanted: Mapping[str, storage.ObjectInfo]) -> Proposed:
    proposed = Proposed()
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
        _collect(table.filter(pa.array(unchanged, pa.bool_())), proposed)
    proposed.errors.clear()
    return proposed


def _collect(table: pa.Table, proposed: Proposed) -> None:
    """Add the rows of a table PROPOSALS_CACHE to `proposed`."""
    columns = (table[name].to_pylist() for name in ("image_uri", "error", "height", "width"))
    for image_boxes, uri, error, height, width in zip(
        boxes_of(table["boxes"]), *columns, strict=True
    ):
        if image_boxes is None:
            proposed.errors[uri] = error
            continue
        proposed.boxes[uri] = image_boxes
        if height is not None and width is not None:
            proposed.sizes[uri] = (height, width)
