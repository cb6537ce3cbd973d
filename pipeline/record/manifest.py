"""What a run has written, checked against its plan and put down for readers.

    <output>/runs/<run_id>/manifest-000001.json      shards, rows, counts by status, sha256

The manifest decides nothing: what is done is what lies under scored/ (`pipeline.record`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record.plan import Plan
from pipeline.record.shards import Shard, described_uri, done_shards, inspect, shard_uri
from pipeline.runtime.prefetch import in_threads
from pipeline.storage import StorageError

_CHECKED = 64
"""Shards read before a run goes on: a few seconds, and whoever wrote something else there wrote more of
it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The shards of a run that are there, each checked against the plan."""

    run_id: str
    complete: bool
    """Every image of the plan has its row."""
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Images scored so far in this run, by whatever number of commands."""
        return sum(shard.rows for shard in self.shards)

    @property
    def statuses(self) -> dict[str, int]:
        """Those images by status, most frequent first."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.statuses)
        return dict(total.most_common())


def write_manifest(
    output: str, run_id: str, plan: Plan, shards: Collection[Shard] = ()
) -> Manifest:
    """Check every shard there is against the plan and write down what was found.

    Shards this process made (`shards`) and those an earlier manifest describes are not read again:
    they never change. A manifest equal to the last one is not written again.

    Raises:
        JobError: a shard's rows are not the plan's.
    """
    there = done_shards(output, run_id, plan)
    last, number = _last_manifest(output, run_id)
    known = {shard.shard: shard for shard in [*last, *shards]}

    def read(shard: int) -> Shard:
        if shard in known:
            return known[shard]
        return inspect(
            shard, storage.read_bytes(shard_uri(output, run_id, shard)), plan.shard(shard)
        )

    entries = tuple(in_threads(read, sorted(there)))
    manifest = Manifest(run_id=run_id, complete=len(there) == plan.num_shards, shards=entries)
    if list(entries) != last:
        text = json.dumps(
            {
                "run_id": run_id,
                "table_version": 1,
                "complete": manifest.complete,
                "rows": manifest.rows,
                "statuses": manifest.statuses,
                "shards": [
                    {"uri": shard_uri(output, run_id, entry.shard), **asdict(entry)}
                    for entry in entries
                ],
            },
            indent=1,
        )
        # Lost to another driver that wrote the same number: its manifest says what it saw, ours would
        # say the same or be found wanting by the next run, which compares and writes one more.
        storage.create_bytes(_manifest_uri(output, run_id, number + 1), text.encode())
    return manifest


def described_shards(output: str, run_id: str) -> list[Shard]:
    """The shards that the last manifest of a run describes."""
    return _last_manifest(output, run_id)[0]


def check_some(output: str, run_id: str, plan: Plan, there: Collection[int]) -> None:
    """Check some of the shards that no manifest describes, before more is scored beside them: after a
    driver was killed there may be ten thousands. `write_manifest` checks all in the end.

    Raises:
        JobError: a shard's rows are not the plan's.
    """
    known = {shard.shard for shard in described_shards(output, run_id)}
    unknown = sorted(set(there) - known)

    def check(shard: int) -> None:
        data = storage.read_bytes(shard_uri(output, run_id, shard))
        inspect(shard, data, plan.shard(shard))

    in_threads(check, unknown[:: max(1, len(unknown) // _CHECKED)])


def _last_manifest(output: str, run_id: str) -> tuple[list[Shard], int]:
    uri = storage.join(output, "runs", run_id)
    found = [
        item.uri
        for item in storage.list_objects(uri, missing_ok=True)
        if storage.basename(item.uri).startswith("manifest-")
    ]
    if not found:
        return [], 0
    try:
        entries = json.loads(storage.read_bytes(found[-1]))["shards"]
        # A key that this version does not know is left out; one that an older version lacks has its default.
        names = {field.name for field in fields(Shard)}
        shards = [
            Shard(**{name: value for name, value in entry.items() if name in names})
            for entry in entries
        ]
    except (StorageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(found[-1], f"is no manifest: {error}", "Move it away.") from error
    return shards, int(storage.stem(found[-1]).removeprefix("manifest-"))


def _manifest_uri(output: str, run_id: str, number: int) -> str:
    return described_uri(output, run_id, f"manifest-{number:06d}.json")
