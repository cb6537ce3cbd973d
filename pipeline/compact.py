"""Makes one flat table for each run of scored/: one row per box, sorted by label and falling score.

    <output>/detections/<run_id>.parquet

Why no reader sees a part of a table: The table of a run is one object. It is sorted, written and checked on
this machine's disk. Then it replaces the old table in one step: a rename on a local disk, one PUT or the last
request of a multipart upload in an object store. A job that is killed before leaves the old table, and the
same command starts again. The table is one object, because readers use a glob and no store can replace
several objects at once. One object is enough: readers split a Parquet file by its row groups, and S3 accepts
5 TiB. A query that runs while the table is replaced continues with the old table on a local disk. On S3,
s3fs asks for the ETag that it opened, so the query fails and can be run again.

The metadata of the file holds a hash of the shards that it was made of. If the shards are the same, the job
does nothing. If two commands run at once, the table of the last one stays, and it is whole. If that command
listed fewer shards, the next command replaces its table.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import CompactConfig
from pipeline.errors import JobError, UserError
from pipeline.results.scored import RunFiles, find_run, list_runs
from pipeline.results.tables import RunTables, load_run, work_folder
from pipeline.schema import DETECTIONS, DETECTIONS_VERSION, in_tables_of, scored_metadata

logger = logging.getLogger(__name__)

ROW_GROUP = 128 * 1024
"""Rows in a row group. On 5.24M boxes, a query for a rare class takes 19 ms instead of 2609 ms from the
nested table (design contract)."""
_SOURCE = b"source"
_COLUMNS = ", ".join(name for name in DETECTIONS.names if name != "model_id")
_SORTED = f"SELECT {_COLUMNS} FROM boxes ORDER BY label, score DESC, image_uri, detection"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactSummary:
    """The table of one run."""

    run_id: str
    uri: str
    images: int
    boxes: int
    size_bytes: int
    written: bool
    """False if a table of the same shards existed. The counts are then those of this table."""


def run(config: CompactConfig) -> list[CompactSummary]:
    """Make the table of every run of `config.scored`, or only of the run that `config.run_id` names.

    Returns:
        One summary for each run, by run id. The list is empty with --dry-run.

    Raises:
        UserError: there is no run, a shard is not a table of a run, another object has the name of a table,
            or access is denied.
        JobError: the disk is full or the memory is too small. The old table stays.
    """
    if config.run_id is None:
        runs = sorted(list_runs(config.scored).values(), key=lambda files: files.run_id)
    else:
        runs = [find_run(config.scored, config.run_id)]
    footers = [_read_footer(table_uri(config.output, files.run_id)) for files in runs]
    if not all(_is_made_of(footer, files) for files, footer in zip(runs, footers, strict=True)):
        storage.check_writable(config.output)
    if config.dry_run:
        for files, footer in zip(runs, footers, strict=True):
            _log_plan(files, table_uri(config.output, files.run_id), footer)
        return []
    with storage.driver_errors(config.output):
        return [
            _compact(files, footer, config) for files, footer in zip(runs, footers, strict=True)
        ]


def table_uri(output: str, run_id: str) -> str:
    """Return the URI of the table of one run."""
    return storage.join(output, "detections", f"{run_id}.parquet")


def _compact(
    files: RunFiles, footer: pq.FileMetaData | None, config: CompactConfig
) -> CompactSummary:
    uri = table_uri(config.output, files.run_id)
    if _is_made_of(footer, files):
        logger.info("run %s: %s is up to date", files.run_id, uri)
        return _summary(files.run_id, uri, footer, storage.stat(uri).size or 0, written=False)
    started = time.monotonic()
    with ExitStack() as stack:
        tables = stack.enter_context(
            load_run(files, memory_gib=config.memory_gib, temp_folder=config.temp_folder)
        )
        folder = stack.enter_context(work_folder(config.temp_folder))
        path = Path(folder) / "detections.parquet"
        _write_sorted(tables, path, _metadata(files, tables))
        footer, size = pq.read_metadata(path), path.stat().st_size
        ((boxes,),) = tables.rows("SELECT count(*) FROM boxes")
        if footer.num_rows != boxes:
            raise JobError(
                f"only {footer.num_rows} of {boxes} boxes were written, so {uri} was not replaced. Run the "
                "same command again"
            )
        storage.upload_file(path, uri)
    logger.info(
        "run %s: wrote %d boxes of %d images (%d older rows left out) to %s, %.1f MB in %.1f s",
        files.run_id,
        boxes,
        tables.num_images,
        tables.num_rows - tables.num_images,
        uri,
        size / 1e6,
        time.monotonic() - started,
    )
    return _summary(files.run_id, uri, footer, size, written=True)


def _write_sorted(tables: RunTables, path: Path, metadata: Mapping[bytes, bytes]) -> None:
    order = [("label", False), ("score", True), ("image_uri", False), ("detection", False)]
    sorting_columns = [
        pq.SortingColumn(DETECTIONS.get_field_index(name), descending=descending)
        for name, descending in order
    ]
    schema = DETECTIONS.with_metadata(metadata)
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        write_page_checksum=True,
        write_page_index=True,
        sorting_columns=sorting_columns,
    ) as writer:
        batches = tables.stream(_SORTED, ROW_GROUP)  # a batch may be shorter than a row group
        for rows in in_tables_of(ROW_GROUP, (pa.Table.from_batches([batch]) for batch in batches)):
            model = pa.repeat(pa.scalar(tables.model_id), rows.num_rows)
            table = rows.append_column("model_id", model).cast(schema)
            writer.write_table(table, row_group_size=ROW_GROUP)


def _metadata(files: RunFiles, tables: RunTables) -> dict[bytes, bytes]:
    return scored_metadata(tables.classes, tables.model_id, format_version=DETECTIONS_VERSION) | {
        b"run_id": files.run_id.encode(),
        b"num_images": str(tables.num_images).encode(),
        _SOURCE: _digest(files),
    }


def _digest(files: RunFiles) -> bytes:
    """Hash the names, ETags and sizes of the shards, but not the folder where they lie."""
    shards = [(storage.basename(info.uri), info.etag, info.size) for info in files.objects]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest().encode()


def _is_made_of(footer: pq.FileMetaData | None, files: RunFiles) -> TypeGuard[pq.FileMetaData]:
    return footer is not None and footer.metadata[_SOURCE] == _digest(files)


def _read_footer(uri: str) -> pq.FileMetaData | None:
    """Read the footer of the existing table; None if there is no table.

    Raises:
        UserError: the object is not a table of this job, so the job must not replace it.
    """
    if not storage.exists(uri):
        return None
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        with filesystem.open_input_file(path) as file:
            footer = pq.read_metadata(file)
        if _SOURCE not in (footer.metadata or {}):
            raise ValueError("its metadata has no key `source`")
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(
            uri, f"is not a table of this job ({error})", "Move it away, or give another --output."
        ) from error
    return footer


def _summary(
    run_id: str, uri: str, footer: pq.FileMetaData, size: int, *, written: bool
) -> CompactSummary:
    return CompactSummary(
        run_id=run_id,
        uri=uri,
        images=int(footer.metadata[b"num_images"]),
        boxes=footer.num_rows,
        size_bytes=size,
        written=written,
    )


def _log_plan(files: RunFiles, uri: str, footer: pq.FileMetaData | None) -> None:
    state = "does not exist yet" if footer is None else "would be replaced: it has other shards"
    if _is_made_of(footer, files):
        state = "is up to date"
    logger.info(
        "run %s: %d shards, %.1f MB; %s %s",
        files.run_id,
        len(files.objects),
        sum(info.size or 0 for info in files.objects) / 1e6,
        uri,
        state,
    )
    logger.info("--dry-run: nothing was written")
