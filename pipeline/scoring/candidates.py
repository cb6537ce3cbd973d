"""The CPU stage of scoring: turns tasks (TASK), which are pieces of shards, into candidates (CANDIDATE).

A candidate is a planned image after reading. `pipeline.proposals.reading` reads one image and makes its
proposals; its names can be imported from this module too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa

from pipeline.proposals.reading import ReadSettings, decode_candidates, read_images, read_lots
from pipeline.record.plan import Plan, rows_of
from pipeline.runtime.attempts import Attempts
from pipeline.schema import CANDIDATE, TASK

__all__ = ["CANDIDATE", "ReadSettings", "decode_candidates", "read_images", "read_tasks", "tasks"]

BATCHES_READ_AT_ONCE = 4
"""Batches of images that are read together and then sorted by shape."""


def tasks(plan: Plan, shards: Collection[int], most: int) -> pa.Table:
    """Cut some shards into tasks (TASK) of at most `most` images."""
    rows = [
        {
            "part": plan.part_uri(shard),
            "shard": shard,
            "first": first,
            "rows": min(most, size - first),
        }
        for shard in shards
        for size in (plan.num_rows(shard),)
        for first in range(0, size, most)
    ]
    return pa.Table.from_pylist(rows, schema=TASK)


def read_tasks(
    work: pa.Table, settings: ReadSettings, attempts: Attempts | None = None, batch_size: int = 8
) -> Iterator[pa.Table]:
    """Read, check and propose: turn tasks (TASK) into candidates (CANDIDATE), a few batches at a time.

    Within these batches, images of similar shape follow each other, because the network pads all images of a
    batch to the largest.
    """
    rows = pa.concat_tables(
        rows_of(task["part"], task["shard"]).slice(task["first"], task["rows"])
        for task in work.to_pylist()
    )
    for lot in read_lots(rows, settings, attempts, most=BATCHES_READ_AT_ONCE * batch_size):
        yield _by_shape(lot)


def _by_shape(candidates: pa.Table) -> pa.Table:
    widths, heights = (candidates[name].to_pylist() for name in ("width", "height"))
    shapes = [(w / h, w) if w and h else (0.0, 0) for w, h in zip(widths, heights, strict=True)]
    return candidates.take(sorted(range(len(shapes)), key=shapes.__getitem__))
