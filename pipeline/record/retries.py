"""Retry generations: images whose newest row is bad are planned again, for one run.

What an image is (`undecodable`, `too_large`) does not change. What the store or the caller was (`denied`,
`unreadable`, `missing`, `changed`), and `failed`, may be otherwise the next time. The images get rows in new
shards; their old rows stay, and readers take the row of the highest generation.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.record import plan
from pipeline.record.listed import TRIES, ListedImages
from pipeline.record.shards import Shard, open_shard, shard_uri
from pipeline.runtime.prefetch import in_threads
from pipeline.schema import SCORED, read_columns
from pipeline.storage import StorageError

logger = logging.getLogger(__name__)

_PROBES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Which bad rows a command tries again."""

    run_id: str
    statuses: tuple[str, ...]
    """The statuses of --retry; empty tries nothing again."""
    again: bool = False
    """Whether to try images again that failed alike in `TRIES` retry generations (--retry-again)."""


def find(
    planned: plan.Plan, shards: Collection[Shard], listed: ListedImages, retry: Retry
) -> tuple[pa.Table, int]:
    """Find the images that a command names and whose newest row has one of the statuses of --retry.

    Args:
        planned: the plan under the output of the run.
        shards: the shards of the run that exist.
        listed: the images that the command names; it knows the plan (`plan.add_planned_images`).
        retry: the run and the statuses.

    Returns:
        The images (NAMED), and the number of images that are left alone because they failed alike before.

    Raises:
        UserError: a shard cannot be read.
    """
    if not any(shard.newest[status] for shard in shards for status in retry.statuses):
        return storage.NAMED.empty_table(), 0

    def is_retry(shard: int) -> bool:
        return planned.generation(shard).run_id is not None

    def bad_rows(shard: int) -> pa.Table:
        rows = _rows(planned.output, retry.run_id, shard)
        bad = rows.filter(pc.not_equal(rows["status"], "ok"))
        number = pa.repeat(pa.scalar(shard, pa.int64()), bad.num_rows)
        retried = pa.repeat(is_retry(shard), bad.num_rows)
        return bad.append_column("shard", number).append_column("retried", retried)

    wanted = [
        shard.shard
        for shard in shards
        if any(shard.newest[status] for status in retry.statuses)
        or (is_retry(shard.shard) and shard.statuses.get("ok", 0) < shard.rows)
    ]
    for rows in in_threads(bad_rows, wanted):
        listed.add_bad(rows)
    return listed.to_retry(retry.statuses, again=retry.again)


def extend(
    planned: plan.Plan,
    shards: Collection[Shard],
    listed: ListedImages,
    retry: Retry,
    *,
    shard_size: int,
) -> plan.Plan:
    """Plan the images that `find` finds as one more generation. Without any, write nothing.

    Returns:
        The plan with this generation.
    """
    images, left_alone = find(planned, shards, listed, retry)
    if left_alone:
        logger.info(
            "%d images failed alike in %d retries and are left alone; --retry-again tries them too",
            left_alone,
            TRIES,
        )
    while images.num_rows:
        made = plan.extend_for_retry(planned, images, run_id=retry.run_id, shard_size=shard_size)
        planned = made or plan.read(planned.output)
        plan.add_planned_images(planned, listed, retry.run_id)
        if made:
            logger.info(
                "planned %d images again (%s) as generation %d",
                images.num_rows,
                ", ".join(retry.statuses),
                len(made.generations),
            )
            break
        # Another driver created this generation first, perhaps for the same images.
        images, _ = listed.to_retry(retry.statuses, again=retry.again)
    return planned


def store_works(output: str, run_id: str, shards: Sequence[Shard]) -> bool:
    """Read images of a run that could be read before. Return whether the store gives one of them."""
    for uri, etag in islice(_read_before(output, run_id, shards), _PROBES):
        try:
            storage.read_bytes(uri, etag=etag)
        except StorageError as error:
            logger.warning("an image that could be read before cannot be read now: %s", error)
        else:
            return True
    return False


def _read_before(
    output: str, run_id: str, shards: Sequence[Shard]
) -> Iterator[tuple[str, str | None]]:
    for shard in reversed(shards):
        if shard.newest["ok"]:
            rows = _rows(output, run_id, shard.shard)
            ok = rows.filter(pc.equal(rows["status"], "ok")).slice(0, 1)
            yield ok["image_uri"][0].as_py(), ok["etag"][0].as_py()


def _rows(output: str, run_id: str, shard: int) -> pa.Table:
    """Read image_uri, etag and status (plain text) of a shard."""
    with open_shard(shard_uri(output, run_id, shard)) as (file, _, _):
        rows = read_columns(file, [SCORED.field(name) for name in ("image_uri", "etag", "status")])
    return rows.set_column(2, "status", rows["status"].cast(pa.string()))
