"""Loads a run of scored/ into two tables of a DuckDB database on this machine's disk.

    images    one row per image, its newest    the columns of scored/ without `detections`
    boxes     one row per box of these         the fields of `detections`, image_uri, position in the list

The run may be far larger than memory. Shards are read through `pipeline.storage` (retries, lengths, ETags,
page checksums) and inserted as Arrow tables, because DuckDB's own S3 client would bypass these checks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.errors import JobError, UserError, one_line
from pipeline.record import open_shard
from pipeline.results.scored import RunFiles, check_classes
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, prefetch
from pipeline.runtime.progress import Progress
from pipeline.schema import SCORED, read_columns
from pipeline.storage import ObjectInfo

_ROW = pa.field("row", pa.int64())
_ROWS_AT_ONCE = 20_000
"""Images per insert, which takes about 5 ms at any size. With ten boxes an image, these rows are 10 MB."""

# Types without dictionaries, which differ from file to file, and without time zones, which DuckDB would
# apply.
_PLAIN_TYPES = {"status": pa.string(), "scored_at": pa.timestamp("us")}
_PLAIN = pa.schema(
    [
        field.with_type(_PLAIN_TYPES.get(field.name, field.type))
        for field in SCORED
        # A later column may have a type that DuckDB does not know, such as a list of half floats.
        if field.name == "detections"
        or not (pa.types.is_nested(field.type) or pa.types.is_float16(field.type))
    ]
)
_IMAGE_COLUMNS = ", ".join(
    f.name for f in _PLAIN if f.name not in ("model_id", "run_id", "detections")
)
_SELECT_IMAGES = f"SELECT row, {_IMAGE_COLUMNS} FROM shard"
_SELECT_BOXES = """
SELECT row, image_uri, (place - 1)::SMALLINT AS detection, box.*
FROM (SELECT row, image_uri, unnest(detections) AS box, generate_subscripts(detections, 1) AS place
      FROM shard)"""
# Only the rows of images with several rows are sorted, and these are few. The grouping can spill to disk.
_FIND_SUPERSEDED = """
CREATE TABLE superseded AS SELECT row FROM (
    SELECT row, row_number() OVER (
        PARTITION BY image_uri
        ORDER BY coalesce(generation, 1) DESC, scored_at DESC NULLS LAST, row DESC) AS age
    FROM images
    WHERE image_uri IN (SELECT image_uri FROM images GROUP BY image_uri HAVING count(*) > 1))
WHERE age > 1"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTables:
    """A loaded run. `connection` has the tables `images` and `boxes`; `load_run` closes it."""

    connection: duckdb.DuckDBPyConnection
    classes: tuple[str, ...]
    """Names of the detector's classes; label k is classes[k - 1]."""
    model_id: str
    num_rows: int
    """The number of rows of the run, with the rows that a newer row superseded."""
    num_images: int

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the whole result of a query as Python values. For small results, such as counts."""
        result: list[tuple[Any, ...]] = self.connection.execute(query, parameters).fetchall()
        return result

    def stream(self, query: str, batch_size: int) -> pa.RecordBatchReader:
        """Return a reader of the result of a query, `batch_size` rows at a time."""
        return self.connection.sql(query).to_arrow_reader(batch_size)


@contextmanager
def load_run(files: RunFiles, *, memory_gib: float, temp_folder: str | None) -> Iterator[RunTables]:
    """Read a run into a database that exists while the context is open.

    Args:
        files: the run. Shards that are written later are left out.
        memory_gib: the memory that DuckDB may use, in GiB. The rest is spilled to `temp_folder`.
        temp_folder: a folder of this machine; None means the default folder of the system.

    Raises:
        UserError: a shard is missing, unreadable, not a table of a run, or has other classes; or there is no
            such folder.
        JobError: the disk of `temp_folder` is full, or the memory is too small.
    """
    with work_folder(temp_folder) as folder, _disk_errors():
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_gib}GiB",
            "temp_directory": f"{folder}/spilled",
            "autoinstall_known_extensions": False,  # none is needed; DuckDB would download one
        }
        with duckdb.connect(f"{folder}/run.duckdb", config=settings) as connection:
            yield _load(connection, files)


def _load(connection: duckdb.DuckDBPyConnection, files: RunFiles) -> RunTables:
    with _registered(connection, _PLAIN.append(_ROW).empty_table()):
        connection.execute(f"CREATE TABLE images AS {_SELECT_IMAGES}")
        connection.execute(f"CREATE TABLE boxes AS {_SELECT_BOXES}")
    loaded = 0
    waiting: list[pa.Table] = []
    first: _Shard | None = None
    with Progress("reading", len(files.objects), "shards") as progress:
        shards = prefetch(
            _read_shard, files.objects, threads=REQUESTS_AT_ONCE, waiting=REQUESTS_AT_ONCE
        )
        for number, (info, shard) in enumerate(zip(files.objects, shards, strict=True), 1):
            first = first or shard
            check_classes(files, info.uri, shard.classes, first.classes)
            waiting.append(shard.rows)
            if sum(rows.num_rows for rows in waiting) >= _ROWS_AT_ONCE:
                loaded += _insert(connection, waiting, loaded)
            progress.update(number)
    loaded += _insert(connection, waiting, loaded)
    assert first is not None  # RunFiles are never empty
    connection.execute(_FIND_SUPERSEDED)
    for table in ("images", "boxes"):
        connection.execute(f"DELETE FROM {table} WHERE row IN (FROM superseded)")
    ((superseded,),) = connection.execute("SELECT count(*) FROM superseded").fetchall()
    return RunTables(
        connection=connection,
        classes=first.classes,
        model_id=first.model_id,
        num_rows=loaded,
        num_images=loaded - superseded,
    )


@dataclass(frozen=True, slots=True)
class _Shard:
    classes: tuple[str, ...]
    model_id: str
    rows: pa.Table


def _read_shard(info: ObjectInfo) -> _Shard:
    with open_shard(info.uri, info.etag) as (file, classes, model_id):
        rows = read_columns(file, map(SCORED.field, _PLAIN.names)).cast(_PLAIN)
    return _Shard(classes, model_id, rows)


def _insert(connection: duckdb.DuckDBPyConnection, tables: list[pa.Table], first_row: int) -> int:
    """Insert `tables`, empty the list, and return the number of rows."""
    if not tables:
        return 0
    shard = pa.concat_tables(tables)
    tables.clear()
    numbers = pa.array(np.arange(first_row, first_row + shard.num_rows))
    with _registered(connection, shard.append_column(_ROW, numbers)):
        connection.execute(f"INSERT INTO images {_SELECT_IMAGES}")
        connection.execute(f"INSERT INTO boxes {_SELECT_BOXES}")
    rows: int = shard.num_rows
    return rows


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, shard: pa.Table) -> Iterator[None]:
    """Make a table visible to queries under the name `shard`."""
    connection.register("shard", shard)
    try:
        yield
    finally:
        connection.unregister("shard")


@contextmanager
def work_folder(temp_folder: str | None) -> Iterator[str]:
    """Make a folder below --temp-folder, and delete it at the end of the context.

    Raises:
        UserError: --temp-folder does not exist or cannot be written to.
    """
    parent = None if temp_folder is None else os.path.expanduser(temp_folder)
    try:
        folder = tempfile.TemporaryDirectory(prefix="fastrcnn-", dir=parent)
    except OSError as error:
        raise UserError(
            f"--temp-folder {temp_folder}",
            f"cannot be written to ({error.strerror})",
            "Give an existing folder of this machine.",
        ) from error
    with folder as path:
        yield path


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise JobError(
            f"the tables did not fit: {one_line(error)}. Give more --memory-gib, or a --temp-folder with"
            " more free space"
        ) from error
