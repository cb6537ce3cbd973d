"""The manifest of a run: describes its shards for readers, after checking each against the plan.

    <output>/runs/<run_id>/manifest-000001.json      shards, rows, counts by status, sha256

No program depends on the manifest to know which images are done: only the shards under scored/ say that
(`pipeline.record`).
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
"""Shards that are read before a run continues: this many to twice as many, which takes a few seconds. Wrong
shards are rarely alone, so a sample is likely to include one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The shards of a run that exist, each checked against the plan."""

    run_id: str
    complete: bool
    """Whether every planned image has its row."""
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """The number of images scored so far in this run, by all its commands."""
        return sum(shard.rows for shard in self.shards)

    @property
    def statuses(self) -> dict[str, int]:
        """The number of images by status, most frequent first."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.statuses)
        return dict(total.most_common())


def write_manifest(
    output: str, run_id: str, plan: Plan, shards: Collection[Shard] = ()
) -> Manifest:
    """Check the shards that nobody has checked yet against the plan, and write the manifest of all.

    The shards that this process wrote (`shards`) and those that the last manifest describes are not read
    again, because a shard never changes. A manifest with the same shards as the last one is not written.

    Raises:
        JobError: the rows of a shard differ from the plan.
    """
    existing = done_shards(output, run_id, plan)
    last, number = _last_manifest(output, run_id)
    known = {shard.shard: shard for shard in [*last, *shards]}

    def read(shard: int) -> Shard:
        if shard in known:
            return known[shard]
        return inspect(
            shard, storage.read_bytes(shard_uri(output, run_id, shard)), plan.shard(shard)
        )

    entries = tuple(in_threads(read, sorted(existing)))
    manifest = Manifest(run_id=run_id, complete=len(existing) == plan.num_shards, shards=entries)
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
        # Another driver may have written this number first. Its manifest then stays, even if it describes
        # fewer shards: the next command compares it with the shards and writes another one.
        storage.create_bytes(_manifest_uri(output, run_id, number + 1), text.encode())
    return manifest


def described_shards(output: str, run_id: str) -> list[Shard]:
    """Return the shards that the last manifest of a run describes."""
    return _last_manifest(output, run_id)[0]


def check_some(output: str, run_id: str, plan: Plan, done: Collection[int]) -> None:
    """Check a sample of the shards that no manifest describes, before more images are scored.

    It is a sample, because a killed driver may leave tens of thousands of them. `write_manifest` checks all
    of them at the end.

    Raises:
        JobError: the rows of a shard differ from the plan.
    """
    known = {shard.shard for shard in described_shards(output, run_id)}
    unknown = sorted(set(done) - known)

    def check(shard: int) -> None:
        data = storage.read_bytes(shard_uri(output, run_id, shard))
        inspect(shard, data, plan.shard(shard))

    in_threads(check, unknown[:: max(1, len(unknown) // _CHECKED)])


def _last_manifest(output: str, run_id: str) -> tuple[list[Shard], int]:
    uri = storage.join(output, "runs", run_id)
    manifests = [
        item.uri
        for item in storage.list_objects(uri, missing_ok=True)
        if storage.basename(item.uri).startswith("manifest-")
    ]
    if not manifests:
        return [], 0
    last = manifests[-1]
    try:
        entries = json.loads(storage.read_bytes(last))["shards"]
        # Keys that this version does not know are ignored. Keys that an older version lacks get the default.
        names = {field.name for field in fields(Shard)}
        shards = [
            Shard(**{name: value for name, value in entry.items() if name in names})
            for entry in entries
        ]
    except (StorageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(last, f"is not the manifest of a run: {error}", "Move it away.") from error
    return shards, int(storage.stem(last).removeprefix("manifest-"))


def _manifest_uri(output: str, run_id: str, number: int) -> str:
    return described_uri(output, run_id, f"manifest-{number:06d}.json")
