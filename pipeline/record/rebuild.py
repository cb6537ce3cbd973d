"""Makes a lost plan again from the shards of all runs: `jobs/score_bucket.py --rebuild-plan`.

A shard has the images of its part of the plan, with ETag and size, in the plan's order, and it names its
generation. So the shards give the generations again, if none is missing in the middle. Images of shards that
no run has scored are unknown; they are planned again as new images. A generation that belongs to the shards
is kept. What is in the way is moved to runs/<run_id>/damaged/.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record import generations
from pipeline.record import plan as plans
from pipeline.record.checks import set_aside
from pipeline.record.generations import Generation
from pipeline.record.listed import ListedImages
from pipeline.record.plan import Plan
from pipeline.record.planned_shards import (
    PlannedShard,
    belongs,
    from_parts,
    refused,
    rows_of,
    scored_shards,
)
from pipeline.runtime.prefetch import prefetch
from pipeline.schema import MADE_AGAIN_VERSION, NewerFormatError, with_shards
from pipeline.storage import ObjectMissing

logger = logging.getLogger(__name__)

_GENERATION = re.compile(r"(\d{6})\.json")


def rebuild_plan(output: str, run_id: str) -> Plan:
    """Make the plan again from the shards of all runs, and return it. A plan that is whole stays as it is.

    Args:
        output: the --output of the job.
        run_id: what is in the way is moved to the folder of this run.

    Raises:
        UserError: a shard is missing or damaged in all runs, or the shards are of different plans.
    """
    output = storage.absolute(output)
    old = _old_generations(output)
    shards, damaged = scored_shards(output, run_id)
    for candidate in old.values():
        if belongs(output, candidate, shards):
            shards |= from_parts(output, candidate, shards)
    _check_gaps(output, shards, damaged)
    made: dict[int, dict[str, Any]] = {}
    number, first, kept = 1, 0, True
    with closing(ListedImages()) as images:
        while True:
            generation = old.get(number)
            kept = generation is not None and _is_kept(output, generation, shards, first, kept)
            if generation is not None and kept:
                for rows in Plan(output=output, generations=(generation,)).iter_parts(
                    run_id=generation.run_id
                ):
                    images.add_planned(rows)
                first += generation.num_shards
            elif first < len(shards):
                group = _group(output, shards, first)
                made[number] = _describe(output, group, images)
                first += len(group)
            else:
                break
            number += 1
        again = images.planned_again()
    for this, described in made.items():
        if described["first_shard"] in again:
            described |= {"run_id": _only_run(output, shards[described["first_shard"]])}
            described["format_version"] = _version(described)
        _write(output, run_id, this, described, old.get(this))
    for uri in generations.generation_uris(output):
        match = _GENERATION.fullmatch(storage.basename(uri))
        if match is None or not 1 <= int(match[1]) < number:
            place = set_aside(output, run_id, uri, f"plans-{storage.basename(uri)}")
            logger.warning("moved %s to %s: it is no generation of this plan", uri, place)
    if not made:
        logger.info("the plan is whole: no generation was made again")
    return plans.read(output)


def _old_generations(output: str) -> dict[int, Generation]:
    """Read the generations that can be read, by number."""
    found: dict[int, Generation] = {}
    for uri in generations.generation_uris(output):
        match = _GENERATION.fullmatch(storage.basename(uri))
        if match is None:
            continue
        try:
            with storage.driver_errors(uri):
                found[int(match[1])] = generations.parse_generation(storage.read_bytes(uri))
        except NewerFormatError as error:
            raise UserError(uri, str(error), "Install the newer version.") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.warning("%s is not a generation of a plan: %s", uri, error)
    return found


def _check_gaps(
    output: str, shards: Mapping[int, PlannedShard], damaged: Mapping[int, str]
) -> None:
    """Refuse if a shard is unknown although later ones exist, or if one is damaged in all runs."""
    gaps = sorted(set(range(max([*shards, *damaged], default=-1) + 1)) - shards.keys())
    if not gaps:
        return
    causes = [
        f"{damaged[n]} is damaged" if n in damaged else f"shard {n:08d}.parquet exists in no run"
        for n in sorted(gaps, key=lambda n: n not in damaged)[:3]
    ]
    more = f", and {len(gaps) - 3} more are missing" if len(gaps) > 3 else ""
    raise refused(output, ", ".join(causes) + more)


def _is_kept(
    output: str, generation: Generation, shards: Mapping[int, PlannedShard], first: int, kept: bool
) -> bool:
    """Whether a generation stays: it is whole, its shards follow those before, and it belongs to the shards.

    If no run has scored it, it stays if the generation before it does (`kept`).
    """
    answer = belongs(output, generation, shards)
    if generation.first_shard != first or answer is False or (answer is None and not kept):
        return False
    try:
        for _ in Plan(output=output, generations=(generation,)).iter_parts(
            run_id=generation.run_id
        ):
            pass
    except (ObjectMissing, UserError):
        return False
    return True


def _group(output: str, shards: Mapping[int, PlannedShard], first: int) -> list[PlannedShard]:
    """Return the shards from `first` on that one generation planned.

    Older shards name no generation. There, all shards of a generation but the last have the same number of
    rows, and the URIs rise.
    """
    start = previous = shards[first]
    group = [start]
    while (shard := shards.get(first + len(group))) and shard.sha256 == start.sha256:
        alike = previous.rows == start.rows >= shard.rows
        if not alike and start.sha256 is not None:
            raise refused(
                output,
                f"{shard.source} has {shard.rows} rows, but {start.source} of the same generation has"
                f" {start.rows}",
            )
        if start.sha256 is None and not (alike and previous.last_uri < shard.first_uri):
            break
        group.append(shard)
        previous = shard
    later = [n for n in shards if n >= first + len(group)]
    if start.sha256 and any(shards[n].sha256 == start.sha256 for n in later):
        raise refused(output, f"{shards[min(later)].source} is of another plan than its neighbours")
    return group


def _describe(output: str, group: Sequence[PlannedShard], images: ListedImages) -> dict[str, Any]:
    """Write the parts of a generation, add its rows to `images`, and return its JSON."""

    def rows() -> Iterator[pa.Table]:
        for shard, table in zip(
            group, prefetch(rows_of, ((output, s) for s in group)), strict=True
        ):
            number = pa.repeat(pa.scalar(shard.number, pa.int64()), table.num_rows)
            images.add_planned(with_shards(table, number))
            yield table

    first = group[0].number
    described = plans.describe_generation(output, rows(), first, group[0].rows)
    times = [shard.planned_at for shard in group if shard.planned_at is not None]
    described["planned_at"] = min(times, default=datetime.now(UTC)).isoformat()
    if group[0].sha256 is not None:
        described |= {"replaces": group[0].sha256, "format_version": _version(described)}
    return described


def _version(described: Mapping[str, Any]) -> int:
    return max(int(described["format_version"]), MADE_AGAIN_VERSION)


def _only_run(output: str, shard: PlannedShard) -> str:
    """Return the run of a generation whose images were planned before: it was planned for one run."""
    if len(shard.runs) != 1:
        raise refused(output, f"{shard.source} and an earlier shard have the same images")
    return next(iter(shard.runs))


def _write(
    output: str, run_id: str, number: int, described: Mapping[str, Any], old: Generation | None
) -> None:
    """Create the JSON of a generation. Keep the old one if only its parts were lost and are there again."""
    parts = tuple(generations.Part(**part) for part in described["parts"])
    if old is not None and (old.sha256, old.parts) == (described.get("replaces"), parts):
        logger.info("generation %d of the plan: its parts were made again", number)
        return
    uri = generations.generation_uri(output, number)
    if storage.exists(uri):
        set_aside(output, run_id, uri, f"plans-{number:06d}.json")
    if not storage.create_bytes(uri, json.dumps(described).encode()):
        raise UserError(uri, "was created by another job meanwhile", "Run the same command again.")
    logger.info("generation %d of the plan: made again, %d images", number, described["rows"])
