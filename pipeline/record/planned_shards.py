"""Reads what the shards of all runs say about a lost plan, for `pipeline.record.rebuild`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record.generations import Generation
from pipeline.record.inspection import DamagedShardError, read_rows
from pipeline.record.manifest import described_shards
from pipeline.record.plan import Plan
from pipeline.record.shards import Shard, find_runs
from pipeline.runtime.prefetch import prefetch
from pipeline.schema import NAMED, image_keys
from pipeline.storage import ObjectInfo, ObjectMissing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedShard:
    """What is known about one shard of the plan."""

    number: int
    runs: frozenset[str]
    """The runs that have scored it."""
    source: str | Generation
    """Where its rows are: the URI of a shard, or a generation that still has this part."""
    sha256: str | None
    """The hash of its generation. None: the shard is older and names none."""
    rows: int
    first_uri: str
    last_uri: str
    keys: bytes
    """Hash of its (image_uri, etag)."""
    planned_at: datetime | None
    """A time that is not after its rows were scored; the time of the plan where a row has it."""


def scored_shards(output: str, run_id: str) -> tuple[dict[int, PlannedShard], dict[int, str]]:
    """Read every shard of every run.

    Returns:
        What the whole shards say about the plan, and the URIs of damaged ones; both by number of the shard.
    """
    runs = find_runs(output, run_id)
    described = {
        (run, entry.shard): entry for run in runs for entry in described_shards(output, run)
    }
    found = [(run, n, info) for run, shards in runs.items() for n, info in sorted(shards.items())]
    shards: dict[int, PlannedShard] = {}
    damaged: dict[int, str] = {}

    def read(item: tuple[str, int, ObjectInfo]) -> PlannedShard | DamagedShardError:
        run, number, info = item
        return _read_scored(run, number, info, described.get((run, number)))

    for (_, number, info), planned in zip(found, prefetch(read, found, threads=8), strict=True):
        if isinstance(planned, DamagedShardError):
            logger.warning("%s is damaged: %s", info.uri, planned)
            damaged[number] = info.uri
        elif number in shards:
            shards[number] = _merged(output, shards[number], planned)
        else:
            shards[number] = planned
    return shards, damaged


def _read_scored(
    run: str, number: int, info: ObjectInfo, entry: Shard | None
) -> PlannedShard | DamagedShardError:
    """Read what one shard says about the plan. A manifest knows the generation of an older shard."""
    try:
        with storage.driver_errors(info.uri):
            table, metadata = read_rows(number, storage.read_bytes(info.uri, etag=info.etag))
    except DamagedShardError as error:
        return error
    named = metadata.get(b"plan_sha256")
    known = entry.plan_sha256 if entry is not None and entry.describes(info) else None
    # The committer dates rows with status `changed` with the time of the plan.
    changed = table.filter(pc.equal(table["status"].cast(pa.string()), "changed"))
    return _planned(
        table,
        number=number,
        runs=frozenset((run,)),
        source=info.uri,
        sha256=named.decode() if named is not None else known,
        planned_at=pc.min((changed if changed.num_rows else table)["scored_at"]).as_py(),
    )


def _planned(table: pa.Table, **facts: Any) -> PlannedShard:
    digest = hashlib.sha256(repr(list(image_keys(table))).encode()).digest()
    uris = table["image_uri"]
    return PlannedShard(
        rows=table.num_rows,
        first_uri=uris[0].as_py() if table.num_rows else "",
        last_uri=uris[-1].as_py() if table.num_rows else "",
        keys=digest,
        **facts,
    )


def _merged(output: str, one: PlannedShard, other: PlannedShard) -> PlannedShard:
    """Join what two runs say about the same shard. They must agree."""
    other_hash = one.sha256 and other.sha256 and one.sha256 != other.sha256
    if one.keys != other.keys or other_hash:
        raise refused(output, f"{one.source} and {other.source} are of different plans")
    times = [time for time in (one.planned_at, other.planned_at) if time is not None]
    return PlannedShard(
        number=one.number,
        runs=one.runs | other.runs,
        source=one.source,
        sha256=one.sha256 or other.sha256,
        rows=one.rows,
        first_uri=one.first_uri,
        last_uri=one.last_uri,
        keys=one.keys,
        planned_at=min(times, default=None),
    )


def belongs(output: str, generation: Generation, shards: Mapping[int, PlannedShard]) -> bool | None:
    """Whether the shards were made for this generation; None if no run has scored one of its shards."""
    last = generation.first_shard + generation.num_shards
    scored = [shards[n] for n in range(generation.first_shard, last) if n in shards]
    if not scored:
        return None
    for shard in scored:
        if shard.sha256 is not None:
            if shard.sha256 != generation.sha256:
                return False
            continue
        rows = _part_rows(output, generation, shard.number)
        if rows is None or _planned(rows, **_nothing(shard.number)).keys != shard.keys:
            return False
    return True


def _nothing(number: int) -> dict[str, Any]:
    return {"number": number, "runs": frozenset(), "source": "", "sha256": None, "planned_at": None}


def _part_rows(output: str, generation: Generation, number: int) -> pa.Table | None:
    """Read the rows of a shard from the plan; None if that part is lost or damaged."""
    try:
        return Plan(output=output, generations=(generation,)).shard(number)
    except (ObjectMissing, UserError):
        return None


def from_parts(
    output: str, generation: Generation, shards: Mapping[int, PlannedShard]
) -> dict[int, PlannedShard]:
    """Return what the parts say about the shards of a generation that no run has scored."""
    last = generation.first_shard + generation.num_shards
    found: dict[int, PlannedShard] = {}
    for number in range(generation.first_shard, last):
        rows = None if number in shards else _part_rows(output, generation, number)
        if rows is not None:
            facts = _nothing(number) | {"source": generation, "sha256": generation.sha256}
            found[number] = _planned(rows, **facts | {"planned_at": generation.planned_at})
    return found


def rows_of(item: tuple[str, PlannedShard]) -> pa.Table:
    """Read the rows (NAMED) of a shard, in the plan's order."""
    output, shard = item
    if isinstance(shard.source, Generation):
        table = Plan(output=output, generations=(shard.source,)).shard(shard.number)
    else:
        with storage.driver_errors(shard.source):
            table, _ = read_rows(shard.number, storage.read_bytes(shard.source))
    return table.select(NAMED.names).cast(NAMED)


def refused(output: str, why: str) -> UserError:
    return UserError(
        f"--rebuild-plan: {storage.join(output, 'plans')}",
        f"cannot be made again: {why}. No generation was written",
        "Restore plans/ or these shards from a backup, or give another --output.",
    )
