"""The shards of a run, scored/<run_id>/*.parquet: the only record of which images are done.

    <output>/scored/<run_id>/00000007.parquet        one row for each image that the plan put in shard 7

Why every planned image has exactly one row in a run, even when processes die: The plan fixes the shard of
each image (`pipeline.record.plan`). A shard is encoded in memory when it has all its rows, and it is checked
against the plan. One exclusive create makes it visible. So at most one object per shard exists, and it is
whole. When a driver is killed, some shards are missing. The next driver lists the shards that exist and
scores the others.
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
    """Its number in the plan, from 0."""
    rows: int
    statuses: dict[str, int]
    num_detections: int
    size_bytes: int
    sha256: str
    decoder_version: int = 1
    """The version of the image decoder (`pipeline.images.DECODER_VERSION`); 1 if the file names none."""


def make_run_id(facts: Mapping[str, object]) -> str:
    """Hash `facts` (JSON types) to 16 hex digits.

    `table_version` was once the version of the tables. It stays 1, because a new version of the tables must
    not rename existing runs.
    """
    text = json.dumps({**facts, "table_version": 1}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scored_uri(output: str, run_id: str) -> str:
    """Return the folder with the shards of a run."""
    return storage.join(output, "scored", run_id)


def shard_uri(output: str, run_id: str, shard: int) -> str:
    """Return the URI of one shard."""
    return storage.join(scored_uri(output, run_id), f"{shard:08d}.parquet")


def described_uri(output: str, run_id: str, name: str) -> str:
    """Return the URI of a file that describes the run: runs/<run_id>/<name>."""
    return storage.join(output, "runs", run_id, name)


def done_shards(output: str, run_id: str, plan: Plan) -> set[int]:
    """List the shards of a run that exist.

    Raises:
        UserError: the folder holds another object too. Readers take every object in it as rows of the run.
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
            f"is not a shard of the plan under {output} ({len(foreign)} such objects)",
            "Move it away, or give another --output.",
        )
    return done


def to_do(plan: Plan, done: Collection[int], only: Collection[int] | None = None) -> list[int]:
    """Return the numbers of the shards that are not done, in order; if `only` is given, of those in it."""
    wanted = range(plan.num_shards) if only is None else sorted(only)
    return [shard for shard in wanted if shard not in done]


def inspect(shard: int, data: bytes, planned: pa.Table) -> Shard:
    """Check that the rows of a shard are the planned (image_uri, etag), and describe it.

    Args:
        shard: its number.
        data: the bytes of its Parquet file.
        planned: the rows that the plan has for it (`Plan.shard`).

    Raises:
        JobError: the rows are not the planned ones, or the bytes are not a Parquet file with these columns.
    """
    try:
        columns = ["image_uri", "etag", "status", "num_detections"]
        with pq.ParquetFile(io.BytesIO(data)) as file:
            table = file.read(columns)
            metadata = file.schema_arrow.metadata or {}
        check_version(int(metadata.get(b"format_version", b"1")), TABLE_VERSION)
        keys = Counter(image_keys(table))
        statuses = dict(Counter(table["status"].cast(pa.string()).to_pylist()).most_common())
        num_detections = pc.sum(table["num_detections"]).as_py() or 0
    except NewerFormatError as error:
        raise JobError(f"shard {shard} {error}: install the newer version") from error
    except (pa.ArrowException, KeyError) as error:
        raise JobError(f"shard {shard} is not a Parquet file of this job: {error}") from error
    if keys != Counter(image_keys(planned)):
        raise JobError(
            f"shard {shard} does not match the plan: it holds {table.num_rows} rows, and these are not the "
            f"{planned.num_rows} planned images"
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
    """Open one Parquet file of a run. The page checksums are verified while it is read.

    Yields:
        The file, its classes and its model_id.

    Raises:
        UserError: the object is missing, unreadable or not a table of a scoring run. Errors of reads inside
            the context are raised as UserError too.
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
