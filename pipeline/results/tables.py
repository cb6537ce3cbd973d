"""Loads a run of scored/ into two tables of a DuckDB database on this machine's disk.

    images    one row per image, its newest    the columns of scored/ without `detections`
    boxes     one row per box of these         the fields of `detections`, image_uri, position in the list
    shown     the boxes that people look at    those from the operating point of their class on, else from .5

The run may be far larger than memory. Shards are read through `pipeline.storage` (retries, lengths, ETags,
page checksums) and inserted as Arrow tables, because DuckDB's own S3 client would bypass these checks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.detections import DEFAULT_MIN_SCORE
from pipeline.errors import JobError, UserError, one_line
from pipeline.record import open_shard
from pipeline.results.scored import Origin, RunFiles, check_origin, origin_of
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, prefetch
from pipeline.runtime.progress import Progress
from pipeline.schema import SCORED, read_columns
from pipeline.storage import ObjectInfo

_ROW_NUMBER = pa.field("row", pa.int64())
OTHER = "other"
"""The schema of a second run in the same database (`load_other`)."""
_ROWS_AT_ONCE = 20_000
"""Images per insert, which takes about 5 ms at any size. With ten boxes an image, these rows are 10 MB."""

# Types without dictionaries, which differ from file to file, and without time zones, which DuckDB would
# apply.
_LOADED_TYPES = {"status": pa.string(), "scored_at": pa.timestamp("us")}
_LOADED_SCHEMA = pa.schema(
    [
        field.with_type(_LOADED_TYPES.get(field.name, field.type))
        for field in SCORED
        # A later column may have a type that DuckDB does not know, such as a list of half floats.
        if field.name == "detections"
        or not (pa.types.is_nested(field.type) or pa.types.is_float16(field.type))
    ]
)
_IMAGE_COLUMNS = ", ".join(
    f.name for f in _LOADED_SCHEMA if f.name not in ("model_id", "run_id", "detections")
)
_SELECT_IMAGES = f"SELECT row, {_IMAGE_COLUMNS} FROM shard"
_SELECT_BOXES = """
SELECT row, image_uri, (place - 1)::SMALLINT AS detection, box.*
FROM (SELECT row, image_uri, unnest(detections) AS box, generate_subscripts(detections, 1) AS place
      FROM shard)"""
# Only the rows of images with several rows are sorted, and these are few. The grouping can spill to disk.
FIND_SUPERSEDED = """
CREATE TABLE superseded AS SELECT row FROM (
    SELECT row, row_number() OVER (
        PARTITION BY image_uri
        ORDER BY coalesce(generation, 1) DESC, scored_at DESC NULLS LAST, row DESC) AS age
    FROM images
    WHERE image_uri IN (SELECT image_uri FROM images GROUP BY image_uri HAVING count(*) > 1))
WHERE age > 1"""

_SHOWN = """
CREATE VIEW shown AS SELECT boxes.* FROM boxes JOIN points ON boxes.label = points.class
WHERE boxes.score >= points.score"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTables:
    """A loaded run. `connection` has the tables `images`, `boxes` and `shown`; `load_run` closes it."""

    connection: duckdb.DuckDBPyConnection
    classes: tuple[str, ...]
    """Names of the detector's classes; label k is classes[k - 1]."""
    model_id: str
    num_rows: int
    """The number of rows of the run, with the rows that a newer row superseded."""
    num_images: int
    schema: str = "main"
    """Where the tables lie."""

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the whole result of a query as Python values. For small results, such as counts."""
        result: list[tuple[Any, ...]] = self.connection.execute(query, parameters).fetchall()
        return result

    def start_at(self, points: Mapping[str, float]) -> None:
        """Choose the score of each class from which its boxes are in the table `shown`."""
        self.connection.execute(f"DELETE FROM {self.schema}.points")
        rows = list(points.items())
        self.connection.executemany(f"INSERT INTO {self.schema}.points VALUES ($1, $2)", rows)

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
    with open_database(memory_gib, temp_folder) as connection:
        yield _load(connection, files)


def load_other(tables: RunTables, files: RunFiles) -> RunTables:
    """Read a second run into the database of the first one, as `other.images`, `other.boxes`, `other.shown`.

    Raises:
        UserError: as `load_run`.
    """
    tables.connection.execute(f"CREATE SCHEMA {OTHER}")
    tables.connection.execute(f"USE {OTHER}")
    try:
        return _load(tables.connection, files, OTHER)
    finally:
        tables.connection.execute("USE main")


@contextmanager
def open_database(
    memory_gib: float, temp_folder: str | None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Make a database on this machine's disk, and delete it at the end of the context.

    Args, Raises: as `load_run`.
    """
    with work_folder(temp_folder) as folder, _disk_errors():
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_gib}GiB",
            "temp_directory": f"{folder}/spilled",
            "autoinstall_known_extensions": False,  # none is needed; DuckDB would download one
        }
        with duckdb.connect(f"{folder}/run.duckdb", config=settings) as connection:
            yield connection


def _load(
    connection: duckdb.DuckDBPyConnection, files: RunFiles, schema: str = "main"
) -> RunTables:
    with registered(connection, _LOADED_SCHEMA.append(_ROW_NUMBER).empty_table()):
        connection.execute(f"CREATE TABLE images AS {_SELECT_IMAGES}")
        connection.execute(f"CREATE TABLE boxes AS {_SELECT_BOXES}")
    loaded = 0
    pending: list[pa.Table] = []
    first: Origin | None = None
    with Progress("reading", len(files.objects), "shards") as progress:
        shards = prefetch(
            _read_shard, files.objects, threads=REQUESTS_AT_ONCE, waiting=REQUESTS_AT_ONCE
        )
        for number, (info, shard) in enumerate(zip(files.objects, shards, strict=True), 1):
            first = first or shard.origin
            check_origin(files, info.uri, shard.origin, first)
            pending.append(shard.rows)
            if sum(rows.num_rows for rows in pending) >= _ROWS_AT_ONCE:
                loaded += _insert(connection, pending, loaded)
            progress.update(number)
    loaded += _insert(connection, pending, loaded)
    assert first is not None  # RunFiles are never empty
    connection.execute(FIND_SUPERSEDED)
    for table in ("images", "boxes"):
        connection.execute(f"DELETE FROM {table} WHERE row IN (FROM superseded)")
    connection.execute("CREATE TABLE points (class VARCHAR, score FLOAT)")
    connection.execute(_SHOWN)
    ((superseded,),) = connection.execute("SELECT count(*) FROM superseded").fetchall()
    tables = RunTables(
        connection=connection,
        classes=first.classes,
        model_id=first.model_id,
        num_rows=loaded,
        num_images=loaded - superseded,
        schema=schema,
    )
    tables.start_at(dict.fromkeys(first.classes, DEFAULT_MIN_SCORE))
    return tables


@dataclass(frozen=True, slots=True)
class _Shard:
    origin: Origin
    rows: pa.Table


def _read_shard(info: ObjectInfo) -> _Shard:
    with open_shard(info.uri, info.etag) as (file, classes, model_id):
        rows = read_columns(file, map(SCORED.field, _LOADED_SCHEMA.names)).cast(_LOADED_SCHEMA)
        return _Shard(origin_of(file, classes, model_id), rows)


def _insert(connection: duckdb.DuckDBPyConnection, tables: list[pa.Table], first_row: int) -> int:
    """Insert `tables`, empty the list, and return the number of rows."""
    if not tables:
        return 0
    shard = pa.concat_tables(tables)
    tables.clear()
    numbers = pa.array(np.arange(first_row, first_row + shard.num_rows))
    with registered(connection, shard.append_column(_ROW_NUMBER, numbers)):
        connection.execute(f"INSERT INTO images {_SELECT_IMAGES}")
        connection.execute(f"INSERT INTO boxes {_SELECT_BOXES}")
    rows: int = shard.num_rows
    return rows


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, shard: pa.Table) -> Iterator[None]:
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
