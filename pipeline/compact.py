"""scored/ -> detections/: one flat table a run, a row a box, sorted by label and falling score.

    <output>/detections/<run_id>.parquet

Why no reader ever sees half of it. A run's table is one object. It is sorted and written on this machine's
disk, checked, and then takes the place of the old one in one step: a rename on a local disk, the one PUT or
the last request of a multipart upload in an object store. Before that nothing is visible, so a job that was
killed left the old table, and the same command starts again. One object and not many, because no store can
exchange several at once under a glob, and readers glob; a sorted Parquet file is split by its row groups
anyway, and S3 takes 5 TiB. A query that is in the middle of the old table when the new one comes goes on
with the old on a local disk; on S3, s3fs asks for the ETag that it opened and fails, and may be run again.

The file's metadata says what it was made of; where that is what there is, nothing is done. Of two commands
at once the last to finish stays, and it is whole; one that listed fewer shards is mended by the next command.
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
"""Rows. On 5.24M boxes: a rare class in 19 ms instead of 2609 ms from the nested table (design contract)."""
_SOURCE = b"source"
_COLUMNS = ", ".join(name for name in DETECTIONS.names if name != "model_id")
_SORTED = f"SELECT {_COLUMNS} FROM boxes ORDER BY label, score DESC, image_uri, detection"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactSummary:
    """One run's table."""

    run_id: str
    uri: str
    images: int
    boxes: int
    size_bytes: int
    written: bool
    """False where it was there already, made of the same shards; then the counts are that table's."""


def run(config: CompactConfig) -> list[CompactSummary]:
    """Make the table of every run of `config.scored`, or of the one that `config.run_id` names.

    Returns:
        One summary a run, by run id; none with --dry-run.

    Raises:
        UserError: no run, a shard that is none, another object in the place of a table, no access.
        JobError: the disk is full, or memory too little; what was there stays.
    """
    if config.run_id is None:
        runs = sorted(list_runs(config.scored).values(), key=lambda files: files.run_id)
    else:
        runs = [find_run(config.scored, config.run_id)]
    there = [_read_footer(table_uri(config.output, files.run_id)) for files in runs]
    if config.dry_run:
        for files, footer in zip(runs, there, strict=True):
            _log_plan(files, table_uri(config.output, files.run_id), footer)
        return []
    with storage.driver_errors(config.output):
        return [_compact(*pair, config) for pair in zip(runs, there, strict=True)]


def table_uri(output: str, run_id: str) -> str:
    """The object of one run's boxes."""
    return storage.join(output, "detections", f"{run_id}.parquet")


def _compact(
    files: RunFiles, footer: pq.FileMetaData | None, config: CompactConfig
) -> CompactSummary:
    uri = table_uri(config.output, files.run_id)
    if _is_made_of(footer, files):
        logger.info("run %s: %s is up to date", files.run_id, uri)
        return _summary(files.run_id, uri, footer, storage.stat(uri).size, written=False)
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
            raise JobError(f"{footer.num_rows} boxes were written of {boxes}; {uri} is as it was")
        storage.upload_file(path, uri)
    logger.info(
        "run %s: %d boxes of %d images (%d older rows left out) in %s, %.1f MB, %.1f s",
        *(files.run_id, boxes, tables.num_images, tables.num_rows - tables.num_images),
        *(uri, size / 1e6, time.monotonic() - started),
    )
    return _summary(files.run_id, uri, footer, size, written=True)


def _write_sorted(tables: RunTables, path: Path, metadata: Mapping[bytes, bytes]) -> None:
    order = [("label", False), ("score", True), ("image_uri", False), ("detection", False)]
    sorting = [
        pq.SortingColumn(DETECTIONS.get_field_index(name), descending=falls)
        for name, falls in order
    ]
    schema = DETECTIONS.with_metadata(metadata)
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        write_page_checksum=True,
        write_page_index=True,
        sorting_columns=sorting,
    ) as writer:
        batches = tables.stream(_SORTED, ROW_GROUP)  # each may be shorter than a row group
        for rows in in_tables_of(ROW_GROUP, (pa.Table.from_batches([one]) for one in batches)):
            model = pa.repeat(pa.scalar(tables.model_id), rows.num_rows)
            whole = rows.append_column("model_id", model).cast(schema)
            writer.write_table(whole, row_group_size=ROW_GROUP)


def _metadata(files: RunFiles, tables: RunTables) -> dict[bytes, bytes]:
    return scored_metadata(tables.classes, tables.model_id, format_version=DETECTIONS_VERSION) | {
        b"run_id": files.run_id.encode(),
        b"num_images": str(tables.num_images).encode(),
        _SOURCE: _digest(files),
    }


def _digest(files: RunFiles) -> bytes:
    """Changes with any shard; not with the place where they lie."""
    shards = [(storage.basename(info.uri), info.etag, info.size) for info in files.objects]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest().encode()


def _is_made_of(footer: pq.FileMetaData | None, files: RunFiles) -> TypeGuard[pq.FileMetaData]:
    return footer is not None and footer.metadata[_SOURCE] == _digest(files)


def _read_footer(uri: str) -> pq.FileMetaData | None:
    """Of the table that is there, if one is.

    Raises:
        UserError: it is no table of ours, so it is not ours to replace.
    """
    if not storage.exists(uri):
        return None
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        with filesystem.open_input_file(path) as file:
            footer = pq.read_metadata(file)
        if _SOURCE not in (footer.metadata or {}):
            raise ValueError("its metadata name no source")
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(
            uri, f"is no table of this job ({error})", "Move it away, or give another --output."
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
    state = "not there yet" if footer is None else "there, of other shards: to be replaced"
    if _is_made_of(footer, files):
        state = "up to date: nothing to do"
    logger.info(
        "run %s: %d shards, %.1f MB -> %s (%s)",
        *(files.run_id, len(files.objects), sum(info.size for info in files.objects) / 1e6),
        *(uri, state),
    )
    logger.info("--dry-run: nothing written")
