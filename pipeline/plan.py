"""What is to be scored: the images a command names, and the plan they are written down in.

    <output>/plans/000001.parquet    first generation: image_uri, etag, size_bytes, shard
    <output>/plans/000002.parquet    what was new or changed when the command ran again

A generation is one object, created exclusively and never changed, so an image belongs to one shard for
ever. Generation n+1 is made by someone who has read 1..n: of two drivers racing for it one wins, the
other reads what the winner planned and adds only what is still lacking. A planned image is
(image_uri, etag): an object that changed is planned anew.
"""

from __future__ import annotations

import bisect
import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.schema import PLAN, TABLE_VERSION, encode_parquet
from pipeline.storage import ObjectInfo, StorageError
from pipeline.storage.uris import compile_pattern, is_pattern

logger = logging.getLogger(__name__)

_PLANNED_AT = b"planned_at"
NO_ETAG = ""
"""Etag in `ObjectInfo` of an image that a manifest names and that could not be looked up; null in tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The images a command names: `objects` sorted by URI, each URI once."""

    objects: tuple[ObjectInfo, ...]
    left_out: int
    """Objects under a prefix whose names have no image suffix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All generations together."""

    rows: pa.Table
    """Schema PLAN, in order of shard, then URI."""
    starts: tuple[tuple[int, datetime], ...]
    """Of each generation: its first shard, and when it was planned."""

    @property
    def generations(self) -> int:
        """How many there are."""
        return len(self.starts)

    def planned_at(self, shard: int) -> datetime:
        """When the generation of `shard` was planned."""
        return self.starts[bisect.bisect_right(self.starts, shard, key=lambda start: start[0]) - 1][
            1
        ]

    def shard_sizes(self) -> dict[int, int]:
        """Number of planned images of each shard."""
        counts = pc.value_counts(self.rows["shard"].combine_chunks())
        return {item["values"]: item["counts"] for item in counts.to_pylist()}


def select(images: str, limit: int | None = None) -> Selection:
    """List what `images` names.

    Args:
        images: a prefix: objects under it whose name ends in an image suffix, whatever the case
            (the others are counted, logged, and not images of this job); a glob: every object it
            matches; a manifest (.txt, .csv, .parquet): every URI it names, there or not.
        limit: keep the first so many, in order of their URI.

    Raises:
        UserError: the bucket, prefix or manifest is not there, or holds no image.
    """
    left_out = 0
    if _is_manifest(images):
        uris = sorted(storage.read_manifest(images))[:limit]
        with ThreadPoolExecutor(32) as threads:
            objects = list(threads.map(_look_up, uris))
    else:
        objects = storage.list_objects(images)
        if objects[0].uri.startswith(_folder(images)):
            listed = len(objects)
            objects = [found for found in objects if found.uri.lower().endswith(IMAGE_SUFFIXES)]
            left_out = listed - len(objects)
        objects = objects[:limit]
    if left_out:
        logger.info("left out: %d objects without an image suffix", left_out)
    if not objects:
        raise UserError(
            f"--images {images}",
            f"holds no image ({left_out} objects without an image suffix)",
            f"Give a prefix with {', '.join(IMAGE_SUFFIXES)} objects, a glob or a manifest.",
        )
    return Selection(objects=tuple(objects), left_out=left_out)


def check_apart(images: str, output: str) -> None:
    """Refuse an output below the images: the next listing would find our own files.

    Raises:
        UserError: it is.
    """
    ours = storage.absolute(storage.join(output, "plans", "000001.parquet"))
    if _is_manifest(images):
        return
    pattern = compile_pattern(storage.absolute(images))
    if ours.startswith(_folder(images)) or pattern.fullmatch(ours):
        raise UserError(
            f"--output {output}",
            f"lies inside --images {images}, so the next run would list its files",
            "Give an output beside the images.",
        )


def read(output: str) -> Plan:
    """Read every generation under `output`; none gives an empty plan.

    Raises:
        UserError: a generation is missing, unreadable, or has other columns.
    """
    found = storage.list_objects(storage.join(output, "plans"), missing_ok=True)
    expected = [storage.absolute(_generation_uri(output, n + 1)) for n in range(len(found))]
    if [item.uri for item in found] != expected:
        raise UserError(
            storage.join(output, "plans"),
            f"holds {[PurePosixPath(item.uri).name for item in found][:3]}, not generations 1 to n",
            "Give an --output that only this job writes to.",
        )
    generations = [_read_generation(item.uri) for item in found]
    return Plan(
        rows=pa.concat_tables([PLAN.empty_table(), *(rows for rows, _ in generations)]),
        starts=tuple((rows["shard"][0].as_py(), planned_at) for rows, planned_at in generations),
    )


def missing(plan: Plan, objects: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """The `objects` that no generation holds with the same URI and etag."""
    known = set(zip(plan.rows["image_uri"].to_pylist(), plan.rows["etag"].to_pylist(), strict=True))
    return [item for item in objects if (item.uri, item.etag or None) not in known]


def extend(output: str, objects: Sequence[ObjectInfo], *, shard_size: int) -> Plan:
    """Plan what is new or changed among `objects` as one more generation; nothing new writes nothing.

    Args:
        output: plans/ lies under it.
        objects: sorted by URI, each URI once.
        shard_size: consecutive rows in one shard of the new generation.
    """
    while True:
        plan = read(output)
        new = missing(plan, objects)
        if not new:
            return plan
        first = (pc.max(plan.rows["shard"]).as_py() + 1) if plan.rows.num_rows else 0
        rows = as_rows(new, [first + i // shard_size for i in range(len(new))])
        now = datetime.now(UTC)
        data = encode_parquet(
            rows,
            metadata={
                b"format_version": str(TABLE_VERSION).encode(),
                _PLANNED_AT: now.isoformat().encode(),
            },
        )
        generation = plan.generations + 1
        if storage.create_bytes(_generation_uri(output, generation), data):
            logger.info("planned %d new or changed images as generation %d", len(new), generation)
            return Plan(
                rows=pa.concat_tables([plan.rows, rows]), starts=(*plan.starts, (first, now))
            )
        # Another driver made this generation first: read it and add what it lacks.


def as_rows(objects: Sequence[ObjectInfo], shards: Sequence[int]) -> pa.Table:
    """Images and the shard of each, as a table of schema PLAN."""
    return pa.table(
        {
            "image_uri": [item.uri for item in objects],
            "etag": [item.etag or None for item in objects],
            "size_bytes": [item.size if item.etag else None for item in objects],
            "shard": list(shards),
        },
        schema=PLAN,
    )


def _read_generation(uri: str) -> tuple[pa.Table, datetime]:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
        planned_at = datetime.fromisoformat(table.schema.metadata[_PLANNED_AT].decode())
        return table.select(PLAN.names).cast(PLAN), planned_at
    except (StorageError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(
            uri, f"is no generation of a plan: {error}", "Give another --output."
        ) from error


def _generation_uri(output: str, generation: int) -> str:
    return storage.join(output, "plans", f"{generation:06d}.parquet")


def _look_up(uri: str) -> ObjectInfo:
    try:
        return storage.stat(uri)
    except StorageError:
        # Planned all the same: whoever reads it will give its row the status and the cause.
        return ObjectInfo(uri=uri, etag=NO_ETAG, size=0)


def _is_manifest(images: str) -> bool:
    return images.lower().endswith(storage.MANIFEST_SUFFIXES) and not is_pattern(images)


def _folder(uri: str) -> str:
    return storage.absolute(uri).rstrip("/") + "/"
