"""Which images are done: whole shards under scored/<run_id>/, each created once.

    <output>/scored/<run_id>/00000007.parquet        one row for each image that the plan put in shard 7

Why every planned image has exactly one row in a run, whatever dies: the plan fixes the shard of an image
(`pipeline.record.plan`); a shard is encoded in memory only when its rows are the plan's, and becomes visible
through one exclusive create, so at most one object per shard ever exists and it is whole. A driver that
was killed left some shards out; the next one scores plan minus LIST. Nothing else decides what is done.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import JobError, UserError
from pipeline.record.plan import Plan
from pipeline.schema import TABLE_VERSION, NewerFormatError, check_version, image_keys

_SHARD_NAME = re.compile(r"(\d{8,})\.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One object of scored/<run_id>/, as the manifest describes it."""

    shard: int
    rows: int
    statuses: dict[str, int]
    num_detections: int
    size_bytes: int
    sha256: str
    decoder_version: int = 1
    """The decoder that made the pixels (`pipeline.images.DECODER_VERSION`); 1 where nothing says so."""


def make_run_id(facts: Mapping[str, object]) -> str:
    """16 hex digits that change with anything in `facts` (JSON types).

    The constant 1 stands where the version of the tables once stood. It stays: a new version of the tables
    must not rename the runs that exist.
    """
    text = json.dumps({**facts, "table_version": 1}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scored_uri(output: str, run_id: str) -> str:
    """The folder of a run's shards."""
    return storage.join(output, "scored", run_id)


def shard_uri(output: str, run_id: str, shard: int) -> str:
    """The object of one shard."""
    return storage.join(scored_uri(output, run_id), f"{shard:08d}.parquet")


def described_uri(output: str, run_id: str, name: str) -> str:
    """The object `name` of what a run says about itself: runs/<run_id>/<name>."""
    return storage.join(output, "runs", run_id, name)


def done_shards(output: str, run_id: str, plan: Plan) -> set[int]:
    """The shards that are there.

    Raises:
        UserError: something else is there too: readers take all of scored/ for rows of ours.
    """
    folder = storage.absolute(scored_uri(output, run_id)) + "/"
    done: set[int] = set()
    foreign: list[str] = []
    for page in storage.iter_pages(folder, missing_ok=True):
        for uri in (info.uri for info in page):
            name = _SHARD_NAME.fullmatch(uri.removeprefix(folder))
            if name and int(name[1]) < plan.num_shards:
                done.add(int(name[1]))
            else:
                foreign.append(uri)
    if foreign:
        raise UserError(
            min(foreign),
            f"is no shard of the plan under {output} ({len(foreign)} such objects)",
            "Move it away, or give another --output.",
        )
    return done


def to_do(plan: Plan, done: Collection[int], only: Collection[int] | None = None) -> list[int]:
    """The shards that are not done, in order; `only` some of them, where given."""
    wanted = range(plan.num_shards) if only is None else sorted(only)
    return [shard for shard in wanted if shard not in done]


def inspect(shard: int, data: bytes, planned: pa.Table) -> Shard:
    """Describe the bytes of a shard after checking that its rows are the planned (image_uri, etag).

    Args:
        shard: its number.
        data: Parquet.
        planned: `Plan.shard`.

    Raises:
        JobError: they are not, or the bytes are no Parquet of ours.
    """
    try:
        columns = ["image_uri", "etag", "status", "num_detections"]
        with pq.ParquetFile(io.BytesIO(data)) as file:
            table = file.read(columns)
            metadata = file.schema_arrow.metadata or {}
        found = Counter(image_keys(table))
        statuses = dict(Counter(table["status"].cast(pa.string()).to_pylist()).most_common())
        num_detections = pc.sum(table["num_detections"]).as_py() or 0
    except (pa.ArrowException, KeyError) as error:
        raise JobError(f"shard {shard} is no Parquet of ours: {error}") from error
    if found != Counter(image_keys(planned)):
        raise JobError(
            f"shard {shard} holds {table.num_rows} rows that are not the {planned.num_rows} of the plan"
        )
    return Shard(
        shard=shard,
        rows=table.num_rows,
        statuses=statuses,
        num_detections=num_detections,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        decoder_version=int(metadata.get(b"decoder_version", b"1")),
    )


@contextmanager
def open_shard(
    uri: str, etag: str | None = None
) -> Iterator[tuple[pq.ParquetFile, tuple[str, ...], str]]:
    """One Parquet file of a run, its checksums verified as it is read; its classes and model_id.

    Raises:
        UserError: not there, not readable, or not a table of a scoring run; this holds for what is read
            inside the context too.
    """
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri, etag=etag)
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        metadata = file.schema_arrow.metadata or {}
        check_version(int(metadata[b"format_version"]), TABLE_VERSION)
        yield file, tuple(json.loads(metadata[b"classes"])), metadata[b"model_id"].decode()
    except NewerFormatError as error:
        raise UserError(uri, str(error), "Install the newer version.") from error
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise UserError(
            uri,
            f"is not a table of a scoring run ({error})",
            "Give the --output of jobs/score_bucket.py.",
        ) from error
