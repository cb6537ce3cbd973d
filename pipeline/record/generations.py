"""The generations of a plan: what the JSON objects under plans/ say.

The hash of a generation's JSON names the generation. Shards and manifests carry it, so that a lost or foreign
plan is recognized (`pipeline.record.checks`). A JSON that was made again from the shards
(`pipeline.record.rebuild`) keeps the name of the lost one: it has the key `replaces`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from pipeline import storage
from pipeline.errors import UserError
from pipeline.schema import PLAN_VERSION, NewerFormatError, check_version

FIRST_VERSION = 1
"""The format of a generation that every version of this program reads: without `run_id` and `replaces`."""
REBUILD = "run the same command with --rebuild-plan, which makes the plan again from the shards."
"""Advice for a plan that is lost or damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One Parquet object with consecutive shards."""

    name: str
    rows: int
    first_shard: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """The images that one command planned. All shards but the last have `shard_size` rows."""

    planned_at: datetime
    first_shard: int
    shard_size: int
    rows: int
    size_bytes: int
    parts: tuple[Part, ...]
    sha256: str
    """Names the generation: the hash of its JSON object under plans/, in hex. If that object was made again,
    it is the hash of the lost one."""
    run_id: str | None = None
    """The run that a retry generation is for. None: every run."""

    def is_for(self, run_id: str | None) -> bool:
        """Return whether a run has the shards of this generation; None asks for a run without retries."""
        return self.run_id in (None, run_id)

    @property
    def num_shards(self) -> int:
        """The number of shards of this generation."""
        return -(-self.rows // self.shard_size)


def generation_uris(output: str) -> list[str]:
    """List what lies in plans/ besides the parts: the generations, and what does not belong there."""
    folder = storage.absolute(storage.join(output, "plans"))
    return [
        info.uri
        for info in storage.list_objects(folder, missing_ok=True)
        if not info.uri.startswith(f"{folder}/parts/")
    ]


def read_generation(uri: str) -> Generation:
    """Read a generation.

    Raises:
        UserError: the object cannot be read, is damaged, or a newer version of this program wrote it.
    """
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        return parse_generation(data)
    except NewerFormatError as error:
        raise UserError(uri, str(error), "Install the newer version.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            uri, f"is not a generation of a plan: {error}", f"Restore plans/, or {REBUILD}"
        ) from error


def parse_generation(data: bytes) -> Generation:
    """Parse the JSON of a generation.

    Raises:
        NewerFormatError: a newer version of this program wrote it.
        KeyError, TypeError, ValueError, AttributeError: it is no such JSON.
    """
    described = json.loads(data)
    check_version(described.pop("format_version"), PLAN_VERSION)
    described["planned_at"] = datetime.fromisoformat(described["planned_at"])
    described["parts"] = tuple(Part(**part) for part in described["parts"])
    sha256 = described.pop("replaces", None) or hashlib.sha256(data).hexdigest()
    made = Generation(**described, sha256=sha256)
    if made.shard_size < 1:
        raise ValueError(f"shard_size is {made.shard_size}, expected 1 or more")
    in_parts = sum(part.rows for part in made.parts)
    if made.rows != in_parts:
        raise ValueError(f"rows is {made.rows}, but its parts have {in_parts}")
    return made


def generation_uri(output: str, generation: int) -> str:
    """Return the absolute URI of a generation. They are numbered from 1."""
    return storage.absolute(storage.join(output, "plans", f"{generation:06d}.json"))
