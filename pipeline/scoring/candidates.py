"""The CPU stage of scoring: turns tasks (TASK), which are pieces of shards, into candidates (CANDIDATE).

A candidate is a planned image after reading. `pipeline.proposals.candidate` makes it of one image; the names
of reading can be imported from this module too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

from pipeline.errors import StorageError, UserError
from pipeline.proposals.candidate import ReadSettings, decode_candidates
from pipeline.proposals.reading import read_chunks, read_images
from pipeline.record.plan import Plan, rows_of
from pipeline.runtime.attempts import Attempts
from pipeline.schema import CANDIDATE, TASK

__all__ = [
    "CANDIDATE",
    "cut_tasks",
    "ReadSettings",
    "decode_candidates",
    "read_images",
    "read_tasks",
]

BATCHES_READ_AT_ONCE = 4
"""Batches of images that are read together and then sorted by shape."""
BATCHES_READ_FOR_A_GPU = 16
"""The same if the Detectors have GPUs. There only images of equal canvas share a pass, and among more images
there are more of each canvas: sizes from 300 to 1200 px, 8 images a pass, made 285 passes of 1,024 images
instead of 639 (docs/benchmarks.md, passes of mixed sizes)."""


def cut_tasks(plan: Plan, shards: Collection[int], max_images: int) -> pa.Table:
    """Cut some shards into tasks (TASK) of at most `max_images` images."""
    rows = [
        {
            "part": plan.part_uri(shard),
            "shard": shard,
            "first": first,
            "rows": min(max_images, size - first),
        }
        for shard in shards
        for size in (plan.num_rows(shard),)
        for first in range(0, size, max_images)
    ]
    return pa.Table.from_pylist(rows, schema=TASK)


def read_tasks(
    tasks: pa.Table,
    settings: ReadSettings,
    attempts: Attempts | None = None,
    batch_size: int = 8,
    batches_at_once: int = BATCHES_READ_AT_ONCE,
) -> Iterator[pa.Table]:
    """Read, check and propose: turn tasks (TASK) into candidates (CANDIDATE), a few batches at a time.

    Within these batches, images of similar shape follow each other. So those that share a pass of the network
    come to the same Detector.

    Raises:
        JobError: no node of the cluster can read a part of the plan.
    """
    rows = pa.concat_tables(_rows(task, attempts) for task in tasks.to_pylist())
    for chunk in read_chunks(rows, settings, attempts, max_images=batches_at_once * batch_size):
        yield _by_shape(chunk)


def _rows(task: dict[str, Any], attempts: Attempts | None) -> pa.Table:
    """Read the planned images of a task. If this node cannot, another one gets the task."""
    try:
        rows = rows_of(task["part"], task["shard"])
    except (StorageError, UserError) as error:
        if attempts is None:
            raise
        attempts.leave(f"{task['part']} {task['shard']} {task['first']}", error)
    return rows.slice(task["first"], task["rows"])


def _by_shape(candidates: pa.Table) -> pa.Table:
    widths, heights = (candidates[name].to_pylist() for name in ("width", "height"))
    shapes = [(w / h, w) if w and h else (0.0, 0) for w, h in zip(widths, heights, strict=True)]
    return candidates.take(sorted(range(len(shapes)), key=shapes.__getitem__))
