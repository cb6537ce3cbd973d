"""A run of scored/ as two tables in a DuckDB database on this machine's disk: the newest row of each image.

    images    one row an image          scored/ without `detections`
    boxes     one row a box of those    what `detections` holds, with image_uri and the place in the list

Out of core: a run may be far larger than memory. Shards are read through `pipeline.storage` (retries,
lengths, ETags, page checksums) and handed over as Arrow: DuckDB's own S3 client would bypass all that.
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
"""Images a hand-over: one costs some 5 ms whatever its size; with ten boxes each these are 10 MB."""

# Without dictionaries, which differ from file to file, and without a zone, which DuckDB would apply.
_PLAIN_TYPES = {"status": pa.string(), "scored_at": pa.timestamp("us")}
_PLAIN = pa.schema([f.with_type(_PLAIN_TYPES.get(f.name, f.type)) for f in SCORED])
_IMAGE_COLUMNS = ", ".join(
    f.name for f in SCORED if f.name not in ("model_id", "run_id", "detections")
)
_SELECT_IMAGES = f"SELECT row, {_IMAGE_COLUMNS} FROM shard"
_SELECT_BOXES = """
SELECT row, image_uri, (place - 1)::SMALLINT AS detection, box.*
FROM (SELECT row, image_uri, unnest(detections) AS box, generate_subscripts(detections, 1) AS place
      FROM shard)"""
# Few images have more than one row, so only theirs are sorted; grouping spills to disk where it must.
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
    """What was loaded. `connection` has the tables `images` and `boxes`; it is closed with its context."""

    connection: duckdb.DuckDBPyConnection
    classes: tuple[str, ...]
    """Of the detector; label k is classes[k - 1]."""
    model_id: str
    num_rows: int
    """Rows of the run, those that a newer one has superseded included."""
    num_images: int

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The result of a query, whole: for aggregates. Values are Python's."""
        result: list[tuple[Any, ...]] = self.connection.execute(query, parameters).fetchall()
        return result

    def stream(self, query: str, batch_size: int) -> pa.RecordBatchReader:
        """The result of a query, `batch_size` rows at a time."""
        return self.connection.sql(query).to_arrow_reader(batch_size)


@contextmanager
def load_run(files: RunFiles, *, memory_gib: float, temp_folder: str | None) -> Iterator[RunTables]:
    """Read a run into a database that is there as long as the context.

    Args:
        files: the run; shards that come later are left out.
        memory_gib: what DuckDB may hold in memory, in GiB; what does not fit goes to `temp_folder`.
        temp_folder: a folder of this machine; None: the system's.

    Raises:
        UserError: a shard is gone, not readable, no table of a run or of other classes; no such folder.
        JobError: the disk under `temp_folder` is full, or the memory is too little.
    """
    with work_folder(temp_folder) as folder, _disk_errors():
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_gib}GiB",
            "temp_directory": f"{folder}/spilled",
            "autoinstall_known_extensions": False,  # it needs none, and would ask the network for one
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
        rows = read_columns(file, SCORED).cast(_PLAIN)
    return _Shard(classes, model_id, rows)


def _insert(connection: duckdb.DuckDBPyConnection, tables: list[pa.Table], first_row: int) -> int:
    """Hand `tables` over and empty the list; the number of rows."""
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
    """Let queries see a table under the name `shard`."""
    connection.register("shard", shard)
    try:
        yield
    finally:
        connection.unregister("shard")


@contextmanager
def work_folder(temp_folder: str | None) -> Iterator[str]:
    """A folder below --temp-folder that is removed at the end.

    Raises:
        UserError: --temp-folder is not there or cannot be written to.
    """
    parent = None if temp_folder is None else os.path.expanduser(temp_folder)
    try:
        folder = tempfile.TemporaryDirectory(prefix="fastrcnn-", dir=parent)
    except OSError as error:
        raise UserError(
            f"--temp-folder {temp_folder}",
            f"cannot be written to ({error.strerror})",
            "Give a folder of this machine that is there.",
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
            " more room"
        ) from error
