"""The shards of a run, scored/<run_id>/*.parquet: the only record of which images are done.

    <output>/scored/<run_id>/00000007.parquet        one row for each image that the plan put in shard 7

Why every planned image has exactly one row in a run, even when processes die: The plan fixes the shard of
each image (`pipeline.record.plan`). A shard is encoded in memory when it has all its rows, and it is checked
against the plan. One exclusive create makes it visible. So at most one object per shard exists, and it is
whole. When a driver is killed, some shards are missing. The next driver lists the shards that exist and
scores the others.

Metadata of a shard's file: plan_sha256 (its generation of the plan), shard (its number), write_id (differs
each time a shard is written), and what `schema.scored_metadata` and `run_format` add.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError, one_line
from pipeline.record.plan import Plan
from pipeline.schema import TABLE_VERSION, NewerFormatError, check_version
from pipeline.storage import ObjectInfo

_SHARD_NAME = re.compile(r"(\d{8,})\.parquet")
DAMAGE = (pa.ArrowException, KeyError, ValueError, OSError, MemoryError)
"""What pyarrow raises for damaged files. A damaged length may ask for more memory than there is."""
REPAIR = (
    "To move it to runs/<run_id>/damaged/ and score its images again, run the command of"
    " jobs/score_bucket.py that wrote it, with --repair"
)


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
    plan_sha256: str | None = None
    """The hash of the generation that the rows were compared with. None: an older manifest, whose shards may
    belong to another plan."""
    write_id: str | None = None
    """What the file's metadata says. Two files of one shard with the same value and different bytes: one is
    damaged. None: an older file."""
    etag: str | None = None
    """The ETag of the object when these bytes were read or written. None: an older manifest."""
    superseded: dict[str, int] = field(default_factory=dict)
    """The statuses of those rows whose image has a newer row in another shard (`pipeline.record.newest`)."""

    @property
    def newest(self) -> Counter[str]:
        """The number of images by status that have their newest row in this shard."""
        return Counter(self.statuses) - Counter(self.superseded)

    def describes(self, info: ObjectInfo) -> bool:
        """Whether the object is still the one that was described, as far as a listing can tell."""
        return self.size_bytes == info.size and self.etag is not None and self.etag == info.etag


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


def run_of(uri: str) -> str:
    """Return the run that a shard lies in, from its URI."""
    return storage.basename(uri.rpartition("/")[0])


def run_file_uri(output: str, run_id: str, name: str) -> str:
    """Return the URI of a file that describes the run: runs/<run_id>/<name>."""
    return storage.join(output, "runs", run_id, name)


def find_shards(output: str, run_id: str) -> dict[int, ObjectInfo]:
    """List the shards of a run that exist, by number.

    Raises:
        UserError: the folder holds another object too. Readers take every object in it as rows of the run.
    """
    folder = storage.absolute(scored_uri(output, run_id)) + "/"
    return _by_run(folder.removesuffix(f"{run_id}/"), folder, run_id).get(run_id, {})


def find_runs(output: str, run_id: str) -> dict[str, dict[int, ObjectInfo]]:
    """List the shards of all runs under an output, by run and number.

    Raises:
        UserError: the folder of `run_id` holds another object too.
    """
    folder = storage.absolute(storage.join(output, "scored")) + "/"
    return _by_run(folder, folder, run_id)


def _by_run(scored: str, folder: str, run_id: str) -> dict[str, dict[int, ObjectInfo]]:
    """List the shards below a folder, by run and number. Refuse other objects of the run `run_id`.

    Args:
        scored: URI of scored/, with a slash at the end.
        folder: `scored`, or the folder of one run in it.
        run_id: names the run.
    """
    runs: dict[str, dict[int, ObjectInfo]] = {}
    foreign: list[str] = []
    for page in storage.iter_pages(folder, missing_ok=True):
        for info in page:
            run, _, name = info.uri.removeprefix(scored).partition("/")
            number = shard_number(name)
            if number is not None:
                runs.setdefault(run, {})[number] = info
            elif run == run_id:
                foreign.append(info.uri)
    if foreign:
        raise UserError(
            min(foreign),
            f"is not a shard of a scoring run ({len(foreign)} such objects)",
            "Move it away, or give another --output.",
        )
    return runs


def shard_number(name: str) -> int | None:
    """Return the number of a shard from the name of its object; None for another name."""
    match = _SHARD_NAME.fullmatch(name)
    return int(match[1]) if match else None


def lost_plan(plan: Plan, shard: str, why: str = "") -> UserError:
    """Make the error for a plan that is lost, or that belongs to other shards.

    Args:
        plan: the plan that was read.
        shard: URI of a shard that does not belong to it.
        why: how that was seen. By default, the plan is too short.
    """
    count = f"{plan.num_shards} shards" if plan.num_shards else "no generation"
    return UserError(
        storage.join(plan.output, "plans"),
        f"is not the plan of {shard}: {why or f'the plan has {count}'}. Parts of plans/ are lost, or they"
        " belong to another output",
        "Restore plans/ from a backup or from the place that the output was copied from; or run the same"
        " command with --rebuild-plan, which makes the plan again from the shards.",
    )


def missing_shards(
    plan: Plan,
    done: Collection[int],
    only: Collection[int] | None = None,
    run_id: str | None = None,
) -> list[int]:
    """Return the numbers of the shards that a run lacks, in order; if `only` is given, of those in it.

    Args:
        plan: the plan under the output of the run.
        done: the shards that the run has.
        only: the shards to choose from; None means all.
        run_id: the run. None leaves out the retry generations of every run.
    """
    return [
        shard
        for shard in plan.shards_for(run_id)
        if shard not in done and (only is None or shard in only)
    ]


def check_number(shard: int, metadata: Mapping[bytes, bytes]) -> None:
    """Raise ValueError if the metadata names another shard. Older files name none."""
    number = int(metadata.get(b"shard", str(shard)))
    if number != shard:
        raise ValueError(f"it holds the rows of shard {number}")


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
    number = shard_number(storage.basename(uri))
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        metadata = file.schema_arrow.metadata or {}
        check_version(int(metadata[b"format_version"]), TABLE_VERSION)
        if number is not None:
            check_number(number, metadata)
        yield file, tuple(json.loads(metadata[b"classes"])), metadata[b"model_id"].decode()
    except NewerFormatError as error:
        raise UserError(uri, str(error), "Install the newer version.") from error
    except DAMAGE as error:
        if number is None:
            why, advice = (
                "is not a table of a scoring run",
                "Give the --output of jobs/score_bucket.py.",
            )
        else:
            why, advice = "is damaged, or is not a table of a scoring run", f"{REPAIR}."
        raise UserError(uri, f"{why} ({one_line(error)})", advice) from error
