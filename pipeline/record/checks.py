"""Checks before a run continues: the plan belongs to the shards, and the shards are what was written.

    plan      each shard names its generation of the plan; older shards are compared with it row by row
    size      a shard of another size than the last manifest describes is read; of the shards with another
              ETag, or that no manifest describes, a sample is read, or all if the job needs their counts
    hash      with --verify, each shard is read and its SHA-256 compared

Nothing is written before a plan is known to be the right one: a second plan would score images twice.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record import plan as plans
from pipeline.record.inspection import (
    DamagedShardError,
    NewerShardError,
    OtherPlanError,
    read_rows,
    read_shard,
)
from pipeline.record.manifest import described_shards
from pipeline.record.plan import Plan
from pipeline.record.shards import Shard, find_runs, lost_plan, run_file_uri
from pipeline.runtime.prefetch import in_threads
from pipeline.storage import ObjectInfo

logger = logging.getLogger(__name__)

_SAMPLE = 64
"""Shards that are read before a run continues, among those that no manifest describes: this many to twice as
many, which takes a few seconds. A killed driver may leave tens of thousands of them. Wrong shards are rarely
alone, so a sample is likely to include one. `write_manifest` reads all of them at the end."""
_SMALLEST = 16
"""The smallest of these shards are read too: a shard that was cut short is one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The result of `check_record`."""

    plan: Plan
    shards: Mapping[int, ObjectInfo]
    """The shards of the run that exist."""
    described: tuple[Shard, ...]
    """Descriptions of those shards that were read, or that still are as the last manifest describes them."""
    damaged: Mapping[int, str]
    """Shards that are damaged, and what is wrong with each."""

    @property
    def causes(self) -> dict[str, str]:
        """What is wrong, by URI of the damaged shard."""
        return {self.shards[number].uri: cause for number, cause in self.damaged.items()}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What reading one shard showed about the plan."""

    uri: str
    number: int
    belongs: bool
    cause: str


def check_record(
    output: str, run_id: str, plan: Plan, *, verify: bool = False, every: bool = False
) -> Checked:
    """Check that the plan belongs to the shards of all runs, and the shards of one run. Writes nothing.

    Args:
        output: the --output of the job.
        run_id: the run whose shards are checked.
        plan: the plan that was read. It is read again if another driver has extended it.
        verify: read all shards and compare their hashes with the last manifest.
        every: read all shards that are not as the last manifest describes them, not a sample.

    Raises:
        UserError: the plan is lost or belongs to another output; another object lies among the shards; a
            newer version of this program wrote a shard; or a shard cannot be read.
    """
    runs = find_runs(output, run_id)
    plan, others = _long_enough(output, plan, runs)
    strays = others.pop(run_id, {})
    found = runs.pop(run_id, {})
    described = {entry.shard: entry for entry in described_shards(output, run_id)}
    _warn_of_lost(run_id, described.keys() - found.keys())
    current = {n for n, info in found.items() if n in described and described[n].describes(info)}
    chosen = sorted(found) if verify else _suspects(found, described, current, every)
    damaged: dict[int, str] = {}
    answers = []
    for n in sorted(current.difference(chosen)):
        belongs = described[n].plan_sha256 == plan.generation(n).sha256
        answers.append(_Answer(found[n].uri, n, belongs, "the manifest names another plan"))

    def look(number: int) -> Shard | DamagedShardError | OtherPlanError:
        return _look(found[number].uri, number, plan, described.get(number), strict=verify)

    valid = {number: described[number] for number in current}
    for number, seen in zip(chosen, in_threads(look, chosen), strict=True):
        if isinstance(seen, Shard):
            valid[number] = seen
            answers.append(_Answer(found[number].uri, number, True, ""))
        elif isinstance(seen, DamagedShardError):
            damaged[number] = str(seen)
        else:
            answers.append(_Answer(found[number].uri, number, False, str(seen)))
    proven = {plan.generation_number(answer.number) for answer in answers if answer.belongs}
    for answer in answers:
        if not answer.belongs and plan.generation_number(answer.number) not in proven:
            raise lost_plan(plan, answer.uri, answer.cause)
        if not answer.belongs:
            damaged[answer.number] = answer.cause
    _check_other_runs(plan, runs, proven)
    if verify:
        logger.info("%d shards were compared by hash, %d are damaged", len(chosen), len(damaged))
    whole = tuple(valid[number] for number in sorted(valid.keys() - damaged.keys()))
    for number, (info, cause) in strays.items():
        found[number], damaged[number] = info, cause
    return Checked(plan=plan, shards=found, described=whole, damaged=damaged)


def move_damaged(output: str, run_id: str, checked: Checked) -> None:
    """Move the damaged shards to runs/<run_id>/damaged/, so that their images are scored again.

    Raises:
        UserError: the store does not allow it.
    """
    for number, cause in checked.damaged.items():
        info = checked.shards[number]
        place = set_aside(output, run_id, info.uri, storage.basename(info.uri))
        logger.warning("moved %s to %s: %s", info.uri, place, cause)


def set_aside(output: str, run_id: str, uri: str, name: str) -> str:
    """Move an object to runs/<run_id>/damaged/<name>, and return its new URI.

    Another number is put before the name if an earlier repair has taken it.

    Raises:
        UserError: the store does not allow it.
    """
    with storage.driver_errors(uri):
        etag = storage.stat(uri).etag
        data = storage.read_bytes(uri, etag=etag)
        place, number = run_file_uri(output, run_id, f"damaged/{name}"), 1
        while not storage.create_bytes(place, data):
            number += 1
            place = run_file_uri(output, run_id, f"damaged/{number}-{name}")
        if storage.stat(uri).etag == etag:  # else another driver has repaired it meanwhile
            storage.delete(uri)
    return place


def _long_enough(
    output: str, plan: Plan, runs: dict[str, dict[int, ObjectInfo]]
) -> tuple[Plan, dict[str, dict[int, tuple[ObjectInfo, str]]]]:
    """Return the plan if it has all the shards that exist; read it again if another driver extended it.

    A copy of another shard, or a file that cannot be read, says nothing about the plan. Those beyond the plan
    are removed from `runs`, and returned by run and number with what is wrong.
    """
    last = max((max(shards) for shards in runs.values()), default=-1)
    if last < plan.num_shards:
        return plan, {}
    plan = plans.read(output)
    strays: dict[str, dict[int, tuple[ObjectInfo, str]]] = {}
    for run, shards in list(runs.items()):
        for number in sorted((n for n in shards if n >= plan.num_shards), reverse=True):
            info = shards[number]
            cause = _stray(info.uri, number)
            if cause is None:
                raise lost_plan(plan, info.uri)
            logger.warning("%s is damaged: %s", info.uri, cause)
            strays.setdefault(run, {})[number] = (shards.pop(number), cause)
        if not shards:
            del runs[run]
    return plan, strays


def _stray(uri: str, number: int) -> str | None:
    """Return why a file is no shard of this number; None for a whole shard."""
    try:
        with storage.driver_errors(uri):
            read_rows(number, storage.read_bytes(uri))
    except DamagedShardError as error:
        return str(error)
    except NewerShardError as error:
        raise _newer(uri, error) from error
    return None


def _newer(uri: str, error: NewerShardError) -> UserError:
    return UserError(uri, str(error), "Install the newer version.")


def _suspects(
    found: Mapping[int, ObjectInfo],
    described: Mapping[int, Shard],
    current: Collection[int],
    every: bool,
) -> list[int]:
    """Choose the shards to read: those of another size than described, and a sample of the unknown ones."""
    resized = {n for n in found if n in described and described[n].size_bytes != found[n].size}
    unknown = sorted(found.keys() - resized - set(current))
    if not every:
        smallest = sorted(unknown, key=lambda number: found[number].size or 0)[:_SMALLEST]
        unknown = [*unknown[:: max(1, len(unknown) // _SAMPLE)], *unknown[-1:], *smallest]
    return sorted(resized.union(unknown))


def _look(
    uri: str, number: int, plan: Plan, known: Shard | None, *, strict: bool = False
) -> Shard | DamagedShardError | OtherPlanError:
    """Read one shard, and return what it is."""
    try:
        with storage.driver_errors(uri):
            return read_shard(uri, number, plan, known, strict=strict)
    except (DamagedShardError, OtherPlanError) as error:
        return error
    except NewerShardError as error:
        raise _newer(uri, error) from error


def _check_other_runs(
    plan: Plan, runs: Mapping[str, Mapping[int, ObjectInfo]], proven: Collection[int]
) -> None:
    """Refuse a plan that another run was not made with.

    The first and the last shard of each run are read, unless a shard has proven their generation.
    """
    proven = set(proven)
    others: list[_Answer] = []
    for shards in runs.values():
        for number in {min(shards), max(shards)}:
            if plan.generation_number(number) in proven:
                continue
            seen = _look(shards[number].uri, number, plan, None)
            if isinstance(seen, DamagedShardError):
                logger.warning("%s is damaged: %s", shards[number].uri, seen)
            elif isinstance(seen, Shard):
                proven.add(plan.generation_number(number))
            else:
                others.append(_Answer(shards[number].uri, number, False, str(seen)))
    for answer in others:
        if plan.generation_number(answer.number) not in proven:
            raise lost_plan(plan, answer.uri, answer.cause)
        logger.warning("%s: %s", answer.uri, answer.cause)


def _warn_of_lost(run_id: str, lost: Collection[int]) -> None:
    if lost:
        logger.warning(
            "run %s: %d shards that its last manifest describes are gone, for example %08d.parquet. Their"
            " images are scored again",
            run_id,
            len(lost),
            min(lost),
        )
