"""The plan: what is to be scored, written down once, in generations that never change.

    <output>/plans/000001.json                 first generation: when, how many, its parts; the commit
    <output>/plans/000002.json                 what was new or changed when the command ran again
    <output>/plans/parts/<sha256>.parquet      some shards of one: image_uri, etag, size_bytes, shard

A generation is there when its JSON is, created exclusively after its parts, so an image belongs to one
shard for ever. Generation n+1 is made by someone who has read 1..n: of two drivers racing for it one wins,
the other reads what the winner planned and adds only what is still lacking. Parts are named by their
content: those of a driver that was killed, or that lost, mean nothing. A planned image is (image_uri,
etag): an object that changed is planned anew. A driver holds the generations, some 100 bytes for 10,000
images, and reads parts as it goes.
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
    from pipeline.record.listed import Listed

logger = logging.getLogger(__name__)

SHARDS_A_PART = 10
"""A worker reads a whole part for the rows of one task: 10,000 keys are some 0.4 MB, beside 1 GB of
images."""
_PARTS_KEPT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One Parquet object: consecutive shards."""

    name: str
    rows: int
    first_shard: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What one command planned; all its shards but the last have `shard_size` rows."""

    planned_at: datetime
    first_shard: int
    shard_size: int
    rows: int
    size_bytes: int
    parts: tuple[Part, ...]
    sha256: str
    """Of the JSON object under plans/ that describes this generation, in hex."""

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return -(-self.rows // self.shard_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All generations under `output`. Shards are numbered from 0 without a gap."""

    output: str
    generations: tuple[Generation, ...]

    @property
    def num_images(self) -> int:
        """(image_uri, etag) pairs."""
        return sum(generation.rows for generation in self.generations)

    @property
    def num_shards(self) -> int:
        """How many there are."""
        return sum(generation.num_shards for generation in self.generations)

    def generation_number(self, shard: int) -> int:
        """The number of the generation that planned `shard`, from 1."""
        starts = [generation.first_shard for generation in self.generations]
        return bisect.bisect_right(starts, shard)

    def generation(self, shard: int) -> Generation:
        """The generation that planned `shard`."""
        return self.generations[self.generation_number(shard) - 1]

    def num_rows(self, shard: int) -> int:
        """Images of a shard."""
        made = self.generation(shard)
        return min(made.shard_size, made.rows - (shard - made.first_shard) * made.shard_size)

    def part_uri(self, shard: int) -> str:
        """The part that holds a shard."""
        parts = self.generation(shard).parts
        found = parts[bisect.bisect_right(parts, shard, key=lambda part: part.first_shard) - 1]
        return part_uri(self.output, found.name)

    def shard(self, shard: int) -> pa.Table:
        """The rows of a shard (schema PLAN), by URI."""
        return rows_of(self.part_uri(shard), shard)

    def iter_parts(self, first_shard: int = 0) -> Iterator[pa.Table]:
        """The rows of the parts from `first_shard` on, which begins one, in order."""
        uris = [
            part_uri(self.output, part.name)
            for generation in self.generations
            for part in generation.parts
            if part.first_shard >= first_shard
        ]
        return prefetch(_read_part, uris, threads=REQUESTS_AT_ONCE)


def read(output: str) -> Plan:
    """Read every generation under `output`; none gives an empty plan.

    Raises:
        UserError: a generation is missing, unreadable, or not ours.
    """
    output = storage.absolute(output)  # workers stand in another folder
    folder = storage.join(output, "plans")
    found = [
        info.uri
        for info in storage.list_objects(folder, missing_ok=True)
        if not info.uri.startswith(storage.absolute(storage.join(folder, "parts")) + "/")
    ]
    expected = [storage.absolute(_generation_uri(output, n + 1)) for n in range(len(found))]
    if found != expected:
        raise UserError(
            folder,
            f"holds {[storage.basename(uri) for uri in found][:3]}, not generations 1 to n",
            "Give an --output that only this job writes to.",
        )
    return Plan(output=output, generations=tuple(in_threads(_read_generation, found)))


def extend(output: str, listed: Listed, *, shard_size: int) -> Plan:
    """Plan what is new or changed among the listed images as one more generation; nothing new writes nothing.

    Args:
        output: plans/ lies under it.
        listed: knows every generation afterwards.
        shard_size: images in one shard of the new generation.
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
        # Another driver made this generation first: read it and add what it lacks.


def compare(plan: Plan, listed: Listed, first_shard: int = 0) -> None:
    """Let `listed` know the rows of the plan from `first_shard` on."""
    with storage.driver_errors(storage.join(plan.output, "plans")):
        for rows in plan.iter_parts(first_shard):
            listed.know(rows)


def rows_of(uri: str, shard: int) -> pa.Table:
    """The rows of a shard (schema PLAN) from its part, by URI."""
    rows = _read_part(uri)
    return rows.filter(pc.equal(rows["shard"], shard))


def part_uri(output: str, name: str) -> str:
    """The object of a part."""
    return storage.join(output, "plans", "parts", name)


@functools.lru_cache(maxsize=_PARTS_KEPT)
def _read_part(uri: str) -> pa.Table:
    """A part, kept in this process: the tasks that follow want its other rows. Raises `StorageError` too."""
    try:
        data = storage.read_bytes(uri)
        if hashlib.sha256(data).hexdigest() != storage.stem(uri):
            raise ValueError("its bytes are not those that its name was made of")
        with pq.ParquetFile(io.BytesIO(data)) as file:
            return read_columns(file, PLAN).cast(PLAN)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(uri, f"is no part of a plan: {error}", "Give another --output.") from error


def _write_parts(output: str, listed: Listed, first_shard: int, shard_size: int) -> dict[str, Any]:
    """Write the new images as parts, which mean nothing yet; the JSON of the generation that names them."""
    metadata = {b"format_version": str(PLAN_VERSION).encode()}

    def write(numbered: tuple[int, pa.Table]) -> tuple[Part, int]:
        """One part, and the bytes of its images."""
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
            uri, f"is no generation of a plan: {error}", "Give another --output."
        ) from error


def _parse_generation(data: bytes) -> Generation:
    described = json.loads(data)
    check_version(described.pop("format_version"), PLAN_VERSION)
    described["planned_at"] = datetime.fromisoformat(described["planned_at"])
    described["parts"] = tuple(Part(**part) for part in described["parts"])
    return Generation(**described, sha256=hashlib.sha256(data).hexdigest())


def _generation_uri(output: str, generation: int) -> str:
    return storage.join(output, "plans", f"{generation:06d}.json")
