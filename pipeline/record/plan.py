"""The plan: lists the images to score, in generations that never change.

    <output>/plans/000001.json                 first generation: time, number of rows, names of its parts
    <output>/plans/000002.json                 images that were new or changed when the command ran again
    <output>/plans/parts/<sha256>.parquet      some shards of a generation (schema PLAN)

A generation exists when its JSON exists. The JSON is created exclusively, after the parts, so an image
belongs to one shard of the generations that all runs share, for ever. A driver reads generations 1 to n
before it creates n+1. If two drivers try to create the same generation, one succeeds; the other reads that
generation and plans only the images that it lacks. Parts are named by their content. Parts that no generation
names, because a driver was killed or lost the race, are ignored. A planned image is a pair (image_uri, etag),
so an object that changed is planned again. Images are ordered by URI, members by (archive, offset), so that
neighbours are read together. A driver keeps the generations in memory, about 100 bytes for
10,000 images, and reads parts when it needs them.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record.generations import (
    FIRST_VERSION,
    REBUILD,
    Generation,
    Part,
    generation_uri,
    generation_uris,
    parse_generation,
    read_generation,
)
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, in_threads, prefetch
from pipeline.schema import (
    IMAGE,
    MADE_AGAIN_VERSION,
    PLACE,
    PLAN,
    PLAN_VERSION,
    encode_parquet,
    in_tables_of,
    read_columns,
    with_shards,
)
from pipeline.storage import ObjectMissing
from pipeline.storage.chains import PACKED

if TYPE_CHECKING:
    from pipeline.record.listed import ListedImages

logger = logging.getLogger(__name__)

SHARDS_A_PART = 10
"""Shards in one part. A worker reads a whole part for one task: 10,000 rows are about 0.4 MB, while their
images are about 1 GB."""
_PARTS_CACHED = 8
_CHAINED = f"^({'|'.join(PACKED)})://"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All generations under `output`. Shards are numbered from 0, without gaps."""

    output: str
    generations: tuple[Generation, ...]

    @property
    def num_images(self) -> int:
        """The number of planned (image_uri, etag) pairs."""
        return sum(generation.rows for generation in self.generations if generation.is_for(None))

    @property
    def num_shards(self) -> int:
        """The number of shards of all generations."""
        return sum(generation.num_shards for generation in self.generations)

    def shards_for(self, run_id: str | None) -> list[int]:
        """Return the numbers of the shards that a run has, in order."""
        return [
            generation.first_shard + number
            for generation in self.generations
            if generation.is_for(run_id)
            for number in range(generation.num_shards)
        ]

    def generation_number(self, shard: int) -> int:
        """Return the number of the generation that planned `shard`, from 1."""
        starts = [generation.first_shard for generation in self.generations]
        return bisect.bisect_right(starts, shard)

    def generation(self, shard: int) -> Generation:
        """Return the generation that planned `shard`."""
        return self.generations[self.generation_number(shard) - 1]

    def num_rows(self, shard: int) -> int:
        """Return the number of images in a shard."""
        generation = self.generation(shard)
        size = generation.shard_size
        return min(size, generation.rows - (shard - generation.first_shard) * size)

    def part_uri(self, shard: int) -> str:
        """Return the URI of the part that holds a shard."""
        parts = self.generation(shard).parts
        part = parts[bisect.bisect_right(parts, shard, key=lambda part: part.first_shard) - 1]
        return part_uri(self.output, part.name)

    def shard(self, shard: int) -> pa.Table:
        """Read the rows of a shard (schema PLAN), in the order of the plan."""
        return rows_of(self.part_uri(shard), shard)

    def iter_parts(self, first_shard: int = 0, run_id: str | None = None) -> Iterator[pa.Table]:
        """Yield the rows of each part of a run in order, from the part that begins with `first_shard`."""
        uris = [
            part_uri(self.output, part.name)
            for generation in self.generations
            if generation.is_for(run_id)
            for part in generation.parts
            if part.first_shard >= first_shard
        ]
        return prefetch(_read_part, uris, threads=REQUESTS_AT_ONCE)


def read(output: str) -> Plan:
    """Read every generation under `output`. Without a generation the plan is empty.

    Raises:
        UserError: a generation is missing or unreadable, or plans/ holds other objects.
    """
    output = storage.absolute(output)  # workers have another working directory
    uris = generation_uris(output)
    expected = [generation_uri(output, n + 1) for n in range(len(uris))]
    if uris != expected:
        raise UserError(
            storage.join(output, "plans"),
            f"holds {[storage.basename(uri) for uri in uris][:3]}, expected 000001.json to "
            f"{len(uris):06d}.json",
            f"Move away what the job did not write. If a generation is lost, restore it, or {REBUILD}",
        )
    plan = Plan(output=output, generations=tuple(in_threads(read_generation, uris)))
    first = 0
    for uri, generation in zip(uris, plan.generations, strict=True):
        if generation.first_shard != first:
            raise UserError(
                uri,
                f"begins with shard {generation.first_shard}, but the generations before it end before"
                f" shard {first}: they belong to different plans",
                f"Restore plans/, or {REBUILD}",
            )
        first += generation.num_shards
    return plan


def extend(
    output: str,
    listed: ListedImages,
    *,
    shard_size: int,
    run_id: str | None = None,
    known: Plan | None = None,
) -> Plan:
    """Plan the listed images that are new or changed as one more generation. Without any, write nothing.

    Args:
        output: the --output of the job; the plan lies in its plans/.
        listed: the images that the command names. All planned images are added to it (`add_planned_images`).
        shard_size: images in each shard of the new generation.
        run_id: the run whose retry generations are added to `listed` too.
        known: the plan, if it was read before. It is read again only if another driver has extended it.
    """
    output = storage.absolute(output)
    while True:
        plan, known = known or read(output), None
        add_planned_images(plan, listed, run_id)
        described = describe_generation(output, listed.new(), plan.num_shards, shard_size)
        if not described["rows"]:
            return plan
        number = len(plan.generations) + 1
        data = json.dumps(described).encode()
        if storage.create_bytes(generation_uri(output, number), data):
            made = parse_generation(data)
            logger.info("planned %d new or changed images as generation %d", made.rows, number)
            plan = Plan(output=output, generations=(*plan.generations, made))
            add_planned_images(plan, listed, run_id)
            return plan
        # Another driver created this generation first. Read it, and plan the images that it lacks.


def extend_for_retry(plan: Plan, images: pa.Table, *, run_id: str, shard_size: int) -> Plan | None:
    """Plan images (NAMED) again, for one run. Return None if another driver created this generation first."""
    described = describe_generation(plan.output, [images], plan.num_shards, shard_size)
    version = max(described["format_version"], MADE_AGAIN_VERSION)
    data = json.dumps(described | {"format_version": version, "run_id": run_id}).encode()
    if not storage.create_bytes(generation_uri(plan.output, len(plan.generations) + 1), data):
        return None
    return replace(plan, generations=(*plan.generations, parse_generation(data)))


def add_planned_images(plan: Plan, listed: ListedImages, run_id: str | None = None) -> None:
    """Add the images that are planned for a run to `listed`, except those that were added before."""
    folder = storage.join(plan.output, "plans")
    with storage.driver_errors(folder):
        try:
            for rows in plan.iter_parts(listed.next_shard, run_id):
                listed.add_planned(rows)
        except ObjectMissing as error:
            raise UserError(
                folder, f"lacks a part of the plan ({error})", f"Restore plans/, or {REBUILD}"
            ) from error


def rows_of(uri: str, shard: int) -> pa.Table:
    """Read the rows of a shard (schema PLAN), in the order of the plan, from the part `uri`."""
    rows = _read_part(uri)
    return rows.filter(pc.equal(rows["shard"], shard))


def part_uri(output: str, name: str) -> str:
    """Return the URI of a part."""
    return storage.join(output, "plans", "parts", name)


@functools.lru_cache(maxsize=_PARTS_CACHED)
def _read_part(uri: str) -> pa.Table:
    """Read a part. The last ones are cached, because the next tasks need other rows of the same part.

    Raises:
        UserError: the object is damaged or is not a part.
        StorageError: the object cannot be read.
    """
    try:
        data = storage.read_bytes(uri)
        if hashlib.sha256(data).hexdigest() != storage.stem(uri):
            raise ValueError("the SHA-256 of its bytes is not its name")
        with pq.ParquetFile(io.BytesIO(data)) as file:
            return read_columns(file, PLAN).cast(PLAN)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(
            uri, f"is not a part of a plan: {error}", f"Restore plans/, or {REBUILD}"
        ) from error


def describe_generation(
    output: str, images: Iterable[pa.Table], first_shard: int, shard_size: int
) -> dict[str, Any]:
    """Write images as parts, and return the JSON of the generation that will name these parts.

    Args:
        output: the --output of the job.
        images: tables (NAMED, or with the columns PLACE too) in the order of the plan.
        first_shard: number of the first shard.
        shard_size: images in each shard.
    """

    def write(numbered: tuple[int, pa.Table]) -> tuple[Part, int, int]:
        """Write one part. Return it with the sum of its image sizes in bytes, and its format."""
        number, rows = numbered
        first = first_shard + number * SHARDS_A_PART
        shards = pa.array(first + np.arange(rows.num_rows) // shard_size, pa.int64())
        table, version = with_shards(rows.combine_chunks(), shards), PLAN_VERSION
        if not _has_members(table):
            table, version = table.select(IMAGE.names), FIRST_VERSION
        data = encode_parquet(table, metadata={b"format_version": str(version).encode()})
        name = f"{hashlib.sha256(data).hexdigest()}.parquet"
        if not storage.create_bytes(part_uri(output, name), data):
            storage.write_bytes(part_uri(output, name), data)  # that part was damaged
        part = Part(name=name, rows=rows.num_rows, first_shard=first)
        return part, pc.sum(rows["size_bytes"]).as_py() or 0, version

    tables = in_tables_of(SHARDS_A_PART * shard_size, images)
    written = in_threads(write, enumerate(tables))
    return {
        "format_version": max((version for _, _, version in written), default=FIRST_VERSION),
        "planned_at": datetime.now(UTC).isoformat(),
        "first_shard": first_shard,
        "shard_size": shard_size,
        "rows": sum(part.rows for part, _, _ in written),
        "size_bytes": sum(size for _, size, _ in written),
        "parts": [asdict(part) for part, _, _ in written],
    }


def _has_members(rows: pa.Table) -> bool:
    """Whether any image is a member of an archive, or an archive that could not be read."""
    if any(rows[field.name].null_count < rows.num_rows for field in PLACE):
        return True
    return bool(pc.any(pc.match_substring_regex(rows["image_uri"], _CHAINED)).as_py())
