"""The format of a run: runs/<run_id>/config.json, which the first command of the run writes once.

A run keeps the columns that it began with, also under a newer version of the program, so that all of its
shards have the same columns. New columns come with new runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline import record, storage
from pipeline.errors import UserError
from pipeline.images import DECODER_VERSION
from pipeline.record.manifest import described_shards
from pipeline.record.plan import Plan
from pipeline.schema import (
    FIRST_COLUMNS,
    SCORED,
    TABLE_VERSION,
    NewerFormatError,
    check_version,
    scored_metadata,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFormat:
    """The format of a run's shards. The defaults describe version 1, whose config.json has no such keys."""

    columns: tuple[str, ...] = FIRST_COLUMNS
    """Names of columns of SCORED, in its order."""
    format_version: int = 1
    """TABLE_VERSION of the program that began the run."""
    decoder_version: int = 1
    """Version of the image decoder when the run began. Each shard says which version decoded its images."""

    def metadata(self, classes: Sequence[str], model_id: str) -> dict[bytes, bytes]:
        """Return the file metadata for the shards that this program writes for the run."""
        metadata = scored_metadata(classes, model_id, format_version=self.format_version)
        return metadata | {b"decoder_version": str(DECODER_VERSION).encode()}


def begin_run(
    output: str, run_id: str, done: Collection[int], described: Mapping[str, Any]
) -> RunFormat:
    """Write config.json unless it exists, and return the format that the run began with.

    Args:
        output: the --output of the job, with scored/ and runs/.
        run_id: names the run.
        done: numbers of its shards that exist.
        described: further keys of config.json.

    Raises:
        UserError: the run began under a newer version, or config.json is damaged.
    """
    uri = record.run_file_uri(output, run_id, "config.json")
    if done and not storage.exists(uri):  # it was lost, but a shard has the same facts
        begun = _format_of(record.shard_uri(output, run_id, min(done)))
    else:
        begun = RunFormat(
            columns=tuple(SCORED.names),
            format_version=TABLE_VERSION,
            decoder_version=DECODER_VERSION,
        )
    data = json.dumps({"run_id": run_id, **asdict(begun), **described}, indent=1).encode()
    if storage.create_bytes(uri, data):
        return begun
    return read_format(uri)


def check_format(output: str, run_id: str) -> None:
    """Refuse to continue a run that a newer version began, before anything is written.

    Raises:
        UserError: as in `read_format`.
    """
    uri = record.run_file_uri(output, run_id, "config.json")
    if storage.exists(uri):
        read_format(uri)


def read_format(uri: str) -> RunFormat:
    """Read the format of a run from its config.json.

    Raises:
        UserError: a newer version wrote the file, or it is damaged.
    """
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        described = dict(json.loads(data))
        known: dict[str, Any] = {
            field.name: described[field.name]
            for field in fields(RunFormat)
            if field.name in described
        }
        check_version(known.get("format_version", 1), TABLE_VERSION)
        if "columns" in known:
            known["columns"] = tuple(SCORED.field(name).name for name in known["columns"])
        return RunFormat(**known)
    except NewerFormatError as error:
        raise UserError(uri, str(error), "Install the newer version.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            uri,
            f"does not describe a scoring run ({error})",
            "Move it away, or give another --output.",
        ) from error


def _format_of(shard_uri: str) -> RunFormat:
    with record.open_shard(shard_uri) as (file, _, _):
        metadata = file.schema_arrow.metadata
        return RunFormat(
            columns=tuple(name for name in SCORED.names if name in file.schema_arrow.names),
            format_version=int(metadata[b"format_version"]),
            decoder_version=int(metadata.get(b"decoder_version", b"1")),
        )


def warn_of_other_decoders(run_id: str, plan: Plan, done: Collection[int], begun: RunFormat) -> int:
    """Log how many rows of a run were made with another version of the image decoder.

    Args:
        run_id: names the run.
        plan: the plan under the run's output.
        done: numbers of the shards that exist.
        begun: the format that the run began with.

    Returns:
        The number of these rows.
    """
    shards = described_shards(plan.output, run_id) if done else []
    known = {shard.shard: shard.decoder_version for shard in shards}
    others = [n for n in done if known.get(n, begun.decoder_version) != DECODER_VERSION]
    count = sum(map(plan.num_rows, others))
    if count:
        logger.warning(
            "run %s: %d of its rows were made with another version of the image decoder (this program has"
            " version %d). Unusual images may have been decoded differently in those rows. --fresh scores"
            " every image again, as a new run",
            run_id,
            count,
            DECODER_VERSION,
        )
    return count
