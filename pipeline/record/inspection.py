"""Checks one shard: its bytes are whole, and its rows are those that the plan has for it."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import JobError, UserError, one_line
from pipeline.record.plan import Plan
from pipeline.record.shards import DAMAGE, REPAIR, Shard, check_number, run_of
from pipeline.schema import TABLE_VERSION, NewerFormatError, check_version, image_keys


class DamagedShardError(JobError):
    """A shard is not what was written: its bytes are damaged, or they belong to another shard."""


class NewerShardError(JobError):
    """A newer version of this program wrote the shard."""


class OtherPlanError(JobError):
    """A whole shard does not belong to the plan: one of the two was made for another plan."""


def inspect(
    shard: int,
    data: bytes,
    planned: pa.Table,
    plan_sha256: str,
    *,
    etag: str | None = None,
    run_id: str | None = None,
    whole: bool = True,
) -> Shard:
    """Check that the rows of a shard are the planned (image_uri, etag), and describe it.

    Args:
        shard: its number.
        data: the bytes of its Parquet file.
        planned: the rows that the plan has for it (`Plan.shard`).
        plan_sha256: the hash of the generation that planned it.
        etag: the ETag of the object.
        run_id: the run that the shard lies in. All its rows must be of this run; None does not check that.
        whole: read all columns, with their checksums. False suffices for bytes that this process made.

    Raises:
        DamagedShardError: the bytes are not a whole Parquet file with the rows of this shard.
        OtherPlanError: the file is whole and belongs to another plan.
        NewerShardError: a newer version of this program wrote it.
    """
    table, metadata = read_rows(shard, data, whole=whole)
    if run_id is not None:
        _check_run(shard, table, run_id)
    named = metadata.get(b"plan_sha256")
    if named is not None and named.decode() != plan_sha256:
        raise OtherPlanError(
            f"shard {shard} was made for another plan: it names generation {named.decode()[:12]}, and the "
            f"plan has {plan_sha256[:12]}"
        )
    if Counter(image_keys(table)) != Counter(image_keys(planned)):
        error = OtherPlanError if named is None else DamagedShardError
        raise error(
            f"shard {shard} does not match the plan: it holds {table.num_rows} rows, and these are not the "
            f"{planned.num_rows} planned images"
        )
    return Shard(
        shard=shard,
        rows=table.num_rows,
        statuses=dict(Counter(table["status"].cast(pa.string()).to_pylist()).most_common()),
        num_detections=pc.sum(table["num_detections"]).as_py() or 0,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        decoder_version=int(metadata.get(b"decoder_version", b"1")),
        plan_sha256=plan_sha256,
        write_id=metadata[b"write_id"].decode(errors="replace")
        if b"write_id" in metadata
        else None,
        etag=etag,
    )


def read_shard(
    uri: str, shard: int, plan: Plan, known: Shard | None = None, *, strict: bool = False
) -> Shard:
    """Read a shard that exists, and check all of it against the plan.

    Args:
        uri: its object.
        shard: its number.
        plan: the plan of the output.
        known: what a manifest says about it.
        strict: treat other bytes than `known` describes as damage, unless the file says that it was written
            again. Older files do not say.

    Raises:
        NewerShardError: as in `inspect`.
        StorageError: the object, or the plan's part, cannot be read.
    """
    etag = storage.stat(uri).etag
    data = storage.read_bytes(uri, etag=etag)
    sha256 = plan.generation(shard).sha256
    same = known is not None and hashlib.sha256(data).hexdigest() == known.sha256
    if known is not None and same and known.plan_sha256 == sha256:
        return replace(known, etag=etag)
    made = inspect(shard, data, plan.shard(shard), sha256, etag=etag, run_id=run_of(uri))
    if known is not None and not same and made.write_id == known.write_id:
        if strict or made.write_id is not None:
            raise DamagedShardError(f"shard {shard} was altered: the manifest has another SHA-256")
    return made


def read_rows(
    shard: int, data: bytes, *, whole: bool = True
) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Read a shard, and the metadata of its file.

    Args:
        shard: its number.
        data: the bytes of its Parquet file.
        whole: read all columns, with their checksums, not only those that `inspect` compares.

    Raises:
        DamagedShardError: the bytes are not a whole Parquet file of this shard.
        NewerShardError: a newer version of this program wrote it.
    """
    columns = ["image_uri", "etag", "status", "num_detections", "run_id"]
    try:
        with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=whole) as file:
            metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}
            check_version(int(metadata.get(b"format_version", b"1")), TABLE_VERSION)
            table = file.read() if whole else file.read(columns)
        table.select(columns)  # KeyError if one is missing
        check_number(shard, metadata)
    except NewerFormatError as error:
        raise NewerShardError(f"shard {shard} {error}") from error
    except DAMAGE as error:
        raise DamagedShardError(
            f"shard {shard} is not a whole Parquet file of this job: {one_line(error)}"
        ) from error
    return table, metadata


def _check_run(shard: int, rows: pa.Table, run_id: str) -> None:
    """Raise DamagedShardError if a row is of another run. Runs of one output have the same images."""
    others = set(pc.unique(rows["run_id"]).to_pylist()) - {run_id, None}
    if others:
        raise DamagedShardError(f"shard {shard} holds rows of run {min(others)}")


def damage(causes: Mapping[str, str]) -> UserError:
    """Make the error for damaged shards. `causes` maps the URI of each to what is wrong with it."""
    first = min(causes)
    others = len(causes) - 1
    more = f". {others} more shards are damaged, for example {max(causes)}" if others else ""
    return UserError(first, f"the shard is damaged ({causes[first]}){more}", f"{REPAIR}.")
