"""The manifest of a run: describes its shards for readers, after checking each against the plan.

    <output>/runs/<run_id>/manifest-000001.json      shards, rows, counts by status, sha256

URIs in it are relative to the output, so that an output can be copied. No program depends on the manifest to
know which images are done: only the shards under scored/ say that (`pipeline.record`). A description counts
only while the object has the size and the ETag that it names. Otherwise the shard is read again, so no
manifest keeps the hash of a shard that was lost and written again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record import plan as plans
from pipeline.record.inspection import DamagedShardError, OtherPlanError, damage, read_shard
from pipeline.record.plan import Plan
from pipeline.record.shards import (
    Shard,
    find_shards,
    lost_plan,
    missing_shards,
    run_file_uri,
    shard_uri,
)
from pipeline.runtime.prefetch import in_threads
from pipeline.storage import ObjectInfo

_NAME = re.compile(r"manifest-(\d{6,})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The shards of a run that exist, each checked against the plan."""

    run_id: str
    complete: bool
    """Whether every planned image has its row."""
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """The number of rows of this run, by all its commands."""
        return sum(shard.rows for shard in self.shards)

    @property
    def images(self) -> int:
        """The number of images that have a row."""
        return sum(self.statuses.values())

    @property
    def statuses(self) -> dict[str, int]:
        """The number of images by the status of their newest row, most frequent first."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.newest)
        return dict(total.most_common())


def write_manifest(
    output: str,
    run_id: str,
    plan: Plan,
    shards: Collection[Shard] = (),
    *,
    count: Callable[[Sequence[Shard], Plan], Sequence[Shard]] = lambda shards, _: shards,
) -> Manifest:
    """Check the shards that nobody has checked yet against the plan, and write the manifest of all.

    A shard is not read again if this process wrote it (`shards`) or the last manifest describes it, and the
    object is still the same. A manifest with the same shards as the last one is not written. Another driver
    may have planned and scored more images meanwhile; its shards are described too.

    Args:
        output: the --output of the job.
        run_id: the run.
        plan: the plan under the output.
        shards: what this process knows of shards.
        count: sets `Shard.superseded` (`pipeline.record.newest.count_superseded`). It gets the shards, and
            the plan that has them.

    Raises:
        UserError: a shard is damaged or belongs to another plan, or another object lies among the shards.
    """
    while True:
        plan, existing = current_shards(output, run_id, plan)
        last, number = _last_manifest(output, run_id)
        described = describe(output, run_id, plan, existing, [*last, *shards])
        entries = tuple(count(described, plan))
        complete = not missing_shards(plan, existing, run_id=run_id)
        manifest = Manifest(run_id=run_id, complete=complete, shards=entries)
        # What newer rows replace is counted again each time, so it is no reason to write.
        if _as_written(entries) == _as_written(last):
            return manifest
        data = _encoded(manifest, plan)
        if storage.create_bytes(_manifest_uri(output, run_id, number + 1), data):
            return manifest
        # Another driver wrote this number first. Its manifest may lack some of the shards.
        shards = entries


def current_shards(output: str, run_id: str, plan: Plan) -> tuple[Plan, dict[int, ObjectInfo]]:
    """List the shards of a run, and read the plan again if it lacks some of them.

    Another driver may have planned more images after `plan` was read. Its generation existed before its
    shards did, so reading the plan after listing is enough.

    Raises:
        UserError: the plan lacks a shard all the same, or another object lies among the shards.
    """
    found = find_shards(output, run_id)
    last = max(found, default=-1)
    if last >= plan.num_shards:
        plan = plans.read(output)
        if last >= plan.num_shards:
            raise lost_plan(plan, found[last].uri)
    return plan, found


def described_shards(output: str, run_id: str) -> list[Shard]:
    """Return the shards that the last manifest of a run describes."""
    return _last_manifest(output, run_id)[0]


def _as_written(shards: Iterable[Shard]) -> list[Shard]:
    """Return the shards without what changes when other shards come."""
    return [replace(shard, superseded={}) for shard in shards]


def describe(
    output: str,
    run_id: str,
    plan: Plan,
    existing: Mapping[int, ObjectInfo],
    known: Iterable[Shard],
) -> list[Shard]:
    """Describe the shards that exist: from `known` where that still holds, else by reading them.

    Raises:
        UserError: a shard is damaged or belongs to another plan.
    """
    described = {shard.shard: shard for shard in known}
    entries = {
        number: described[number]
        for number, info in existing.items()
        if number in described
        and described[number].describes(info)
        and described[number].plan_sha256 == plan.generation(number).sha256
    }

    def read(number: int) -> Shard | DamagedShardError:
        uri = shard_uri(output, run_id, number)
        try:
            with storage.driver_errors(uri):
                return read_shard(uri, number, plan, described.get(number))
        except DamagedShardError as error:
            return error
        except OtherPlanError as error:
            raise lost_plan(plan, uri, str(error)) from error

    missing = sorted(set(existing) - set(entries))
    answers = dict(zip(missing, in_threads(read, missing), strict=True))
    causes = {existing[n].uri: str(a) for n, a in answers.items() if not isinstance(a, Shard)}
    if causes:
        raise damage(causes)
    entries |= {n: answer for n, answer in answers.items() if isinstance(answer, Shard)}
    return [entries[number] for number in sorted(entries)]


def _encoded(manifest: Manifest, plan: Plan) -> bytes:
    described = {
        "run_id": manifest.run_id,
        "table_version": 1,
        "complete": manifest.complete,
        "rows": manifest.rows,
        "images": manifest.images,
        "statuses": manifest.statuses,
        "generations": [generation.sha256 for generation in plan.generations],
        "shards": [
            {"uri": shard_uri("", manifest.run_id, entry.shard).lstrip("/"), **asdict(entry)}
            for entry in manifest.shards
        ],
    }
    return json.dumps(described, indent=1).encode()


def _last_manifest(output: str, run_id: str) -> tuple[list[Shard], int]:
    uri = storage.join(output, "runs", run_id)
    names = (storage.basename(item.uri) for item in storage.list_objects(uri, missing_ok=True))
    number = max((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), default=0)
    if not number:
        return [], 0
    last = _manifest_uri(output, run_id, number)
    with storage.driver_errors(last):
        data = storage.read_bytes(last)
    try:
        described = json.loads(data)
        if described["run_id"] != run_id:
            raise ValueError(f"it describes run {described['run_id']}")
        entries = described["shards"]
        # Keys that this version does not know are ignored. Keys that an older version lacks get the default.
        known = {field.name for field in fields(Shard)}
        shards = [
            Shard(**{name: value for name, value in entry.items() if name in known})
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            last,
            f"is not the manifest of this run: {error}",
            "Move it away, and run the same command again: it reads the shards and writes a new one.",
        ) from error
    return shards, number


def _manifest_uri(output: str, run_id: str, number: int) -> str:
    return run_file_uri(output, run_id, f"manifest-{number:06d}.json")
