"""The plan: lists the images to score, in generations that never change.

    <output>/plans/000001.json                 first generation: time, number of rows, names of its parts
    <output>/plans/000002.json                 images that were new or changed when the command ran again
    <output>/plans/parts/<sha256>.parquet      some shards of a generation: image_uri, etag, size_bytes, shard

A generation exists when its JSON exists. The JSON is created exclusively, after the parts, so an image
belongs to one shard for ever. A driver reads generations 1 to n before it creates n+1. If two drivers try to
create the same generation, one succeeds; the other reads that generation and plans only the images that it
lacks. Parts are named by their content. Parts that no generation names, because a driver was killed or lost
the race, are ignored. A planned image is a pair (image_uri, etag), so an object that changed is planned
again. A driver keeps the generations in memory, about 100 bytes for 10,000 images, and reads parts when it
needs them.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, in_threads, prefetch
from pipeline.schema import (
    PLAN,
    PLAN_VERSION,
    NewerFormatError,
    check_version,
    encode_parquet,
    in_tables_of,
    read_columns,
)
from pipeline.storage import StorageError

if TYPE_CHECKING:
    from pipeline.record.listed import ListedImages

logger = logging.getLogger(__name__)

SHARDS_A_PART = 10
"""Shards in one part. A worker reads a whole part for one task: 10,000 rows are about 0.4 MB, while their
images are about 1 GB."""
_PARTS_KEPT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One Parquet object with consecutive shards."""

    name: str
    rows: int
    first_shard: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """The images that one command planned. All shards but the last have `shard_size` rows."""

    planned_at: datetime
    first_shard: int
    shard_size: int
    rows: int
    size_bytes: int
    parts: tuple[Part, ...]
    sha256: str
    """Hash of the JSON object under plans/ that describes this generation, in hex."""

    @property
    def num_shards(self) -> int:
        """The number of shards of this generation."""
        return -(-self.rows // self.shard_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All generations under `output`. Shards are numbered from 0, without gaps."""

    output: str
    generations: tuple[Generation, ...]

    @property
    def num_images(self) -> int:
        """The number of planned (image_uri, etag) pairs."""
        return sum(generation.rows for generation in self.generations)

    @property
    def num_shards(self) -> int:
        """The number of shards of all generations."""
        return sum(generation.num_shards for generation in self.generations)

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
        """Read the rows of a shard (schema PLAN), by URI."""
        return rows_of(self.part_uri(shard), shard)

    def iter_parts(self, first_shard: int = 0) -> Iterator[pa.Table]:
        """Yield the rows of each part in order, from the part that begins with `first_shard`."""
        uris = [
            part_uri(self.output, part.name)
            for generation in self.generations
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
    folder = storage.join(output, "plans")
    uris = [
        info.uri
        for info in storage.list_objects(folder, missing_ok=True)
        if not info.uri.startswith(storage.absolute(storage.join(folder, "parts")) + "/")
    ]
    expected = [storage.absolute(_generation_uri(output, n + 1)) for n in range(len(uris))]
    if uris != expected:
        raise UserError(
            folder,
            f"holds {[storage.basename(uri) for uri in uris][:3]}, expected 000001.json to "
            f"{len(uris):06d}.json",
            "Give an --output that only this job writes to.",
        )
    return Plan(output=output, generations=tuple(in_threads(_read_generation, uris)))


def extend(output: str, listed: ListedImages, *, shard_size: int) -> Plan:
    """Plan the listed images that are new or changed as one more generation. Without any, write nothing.

    Args:
        output: the --output of the job; the plan lies in its plans/.
        listed: the images that the command names. All planned images are added to it (`compare`).
        shard_size: images in each shard of the new generation.
    """
    known = 0
    output = storage.absolute(output)
    while True:
        plan = read(output)
        compare(plan, listed, known)
        known = plan.num_shards
        described = _write_parts(output, listed, known, shard_size)
        if not described["rows"]:
            return plan
        number = len(plan.generations) + 1
        data = json.dumps(described).encode()
        if storage.create_bytes(_generation_uri(output, number), data):
            made = _parse_generation(data)
            logger.info("planned %d new or changed images as generation %d", made.rows, number)
            plan = Plan(output=output, generations=(*plan.generations, made))
            compare(plan, listed, known)
            return plan
        # Another driver created this generation first. Read it, and plan the images that it lacks.


def compare(plan: Plan, listed: ListedImages, first_shard: int = 0) -> None:
    """Add the rows of the plan, from `first_shard` on, to `listed`, which then knows what is planned."""
    with storage.driver_errors(storage.join(plan.output, "plans")):
        for rows in plan.iter_parts(first_shard):
            listed.add_planned(rows)


def rows_of(uri: str, shard: int) -> pa.Table:
    """Read the rows of a shard (schema PLAN), by URI, from the part `uri`."""
    rows = _read_part(uri)
    return rows.filter(pc.equal(rows["shard"], shard))


def part_uri(output: str, name: str) -> str:
    """Return the URI of a part."""
    return storage.join(output, "plans", "parts", name)


@functools.lru_cache(maxsize=_PARTS_KEPT)
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
            uri, f"is not a part of a plan: {error}", "Give another --output."
        ) from error


def _write_parts(
    output: str, listed: ListedImages, first_shard: int, shard_size: int
) -> dict[str, Any]:
    """Write the new images as parts, and return the JSON of the generation that will name these parts."""
    metadata = {b"format_version": str(PLAN_VERSION).encode()}

    def write(numbered: tuple[int, pa.Table]) -> tuple[Part, int]:
        """Write one part. Return it with the sum of its image sizes in bytes."""
        number, rows = numbered
        first = first_shard + number * SHARDS_A_PART
        shards = pa.array(first + np.arange(rows.num_rows) // shard_size, pa.int64())
        table = rows.combine_chunks().append_column("shard", shards).cast(PLAN)
        data = encode_parquet(table, metadata=metadata)
        name = f"{hashlib.sha256(data).hexdigest()}.parquet"
        storage.create_bytes(part_uri(output, name), data)
        part = Part(name=name, rows=rows.num_rows, first_shard=first)
        return part, pc.sum(rows["size_bytes"]).as_py() or 0

    tables = in_tables_of(SHARDS_A_PART * shard_size, listed.new())
    written = in_threads(write, enumerate(tables))
    return {
        "format_version": PLAN_VERSION,
        "planned_at": datetime.now(UTC).isoformat(),
        "first_shard": first_shard,
        "shard_size": shard_size,
        "rows": sum(part.rows for part, _ in written),
        "size_bytes": sum(size for _, size in written),
        "parts": [asdict(part) for part, _ in written],
    }


def _read_generation(uri: str) -> Generation:
    try:
        return _parse_generation(storage.read_bytes(uri))
    except NewerFormatError as error:
        raise UserError(uri, str(error), "Install the newer version.") from error
    except (StorageError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            uri, f"is not a generation of a plan: {error}", "Give another --output."
        ) from error


def _parse_generation(data: bytes) -> Generation:
    described = json.loads(data)
    check_version(described.pop("format_version"), PLAN_VERSION)
    described["planned_at"] = datetime.fromisoformat(described["planned_at"])
    described["parts"] = tuple(Part(**part) for part in described["parts"])
    return Generation(**described, sha256=hashlib.sha256(data).hexdigest())


def _generation_uri(output: str, generation: int) -> str:
    return storage.join(output, "plans", f"{generation:06d}.json")
